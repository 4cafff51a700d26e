"""Pickles that are read and never run: an interpreter that knows plain values and the globals that its caller allows.

Python's own unpickler is not used: it calls what a pickle names, sets attributes, and reserves memory for any number
in a damaged pickle. `pickletools` splits a pickle into opcodes; those that make objects are not among those below.
"""

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from mmap import mmap
from typing import Any

from rewardedit_jax.weights.faults import AGAIN, WeightFileError

# Old names of modules, and those of the system on which a pickle was written.
_MODULES = {"__builtin__": "builtins", "posix": "os", "nt": "os"}


class UnsafePickle(WeightFileError):
    """A pickle that names, calls or makes something that its reader does not know."""


def _unsafe(what: str) -> UnsafePickle:
    return UnsafePickle(
        f"its pickle {what}, but a state dict has tensors and plain containers only. It is refused, as pickles can run "
        "any code. If you trust the file, load it where torch is installed and save only its state dict."
    )


@dataclass(frozen=True, slots=True)
class Constructor:
    """A global that a pickle may call. It gets only values that the interpreter made."""

    build: Callable[..., Any]


def read_pickle(
    stream: BytesIO | mmap, known: Mapping[str, Any], persistent: Callable[[Any], Any] = lambda identity: identity
) -> Any:
    """The value of the pickle at the position of a stream, which is moved to the pickle's end.

    Args:
      stream: of one of the types whose reads reserve no memory beyond the end, whatever length a damaged pickle gives.
      known: "module.name" of a global → what stands for it: a `Constructor`, or a value that cannot be called.
      persistent: the value of a persistent id.
    Raises:
      UnsafePickle: naming the first global that is not known, or the first opcode that makes objects.
      WeightFileError: a damaged pickle.
    """
    machine = _Machine(known, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except WeightFileError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error) as error:
        raise WeightFileError(f"its pickle is damaged ({type(error).__name__}: {error}). {AGAIN}") from error


class _Machine:
    """The stack and the memo of a pickle. Each step costs as much memory as its opcode has bytes."""

    def __init__(self, known: Mapping[str, Any], persistent: Callable[[Any], Any]):
        self.known, self.persistent = known, persistent
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}
        self.steps = self.copied = 0

    def step(self, name: str, argument: Any) -> None:
        self.steps += 1
        if name in _ARGUMENTS:
            self.push(argument)
        elif name in _CONSTANTS:
            self.push(_CONSTANTS[name])
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name == "INST":
            raise _unsafe(f"calls {_readable(argument.replace(' ', '.', 1))}")
        else:
            raise _unsafe(f"has the opcode {name}")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[Any]:
        """Removes the values above the last mark, and the mark."""
        values, self.stack = self.stack, self.outer.pop()
        return values

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def join(self, length: int) -> None:
        values = [self.stack.pop() for _ in range(length)]
        self.push(tuple(reversed(values)))

    def dictionary(self) -> None:
        values = self.to_mark()
        self.push({})
        self.update(values)

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("items for what is no list")
        self.stack[-1].extend(values)

    def update(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or len(values) % 2:
            raise TypeError("items for what is no dictionary")
        self.stack[-1].update(dictionary_of(zip(values[::2], values[1::2], strict=True)))

    def find(self, name: str) -> None:
        known = name.replace("__builtin__.", "builtins.", 1)
        if known not in self.known:
            raise _unsafe(f"names {_readable(name)}")
        self.push(self.known[known])

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise TypeError("a global without name")
        self.find(f"{module}.{name}")

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple):
            raise TypeError("arguments that are no tuple")
        if not isinstance(function, Constructor):
            raise _unsafe(f"calls a value of type {type(function).__name__}")
        # A short pickle that passes one long list a thousand times would fill the memory. Each value of an honest one
        # takes a step of its own, except in shapes that several tensors have.
        self.copied += sum(len(x) for x in arguments if isinstance(x, list | tuple | dict))
        if self.copied > 8 * self.steps:
            raise ValueError("the same values are passed again and again")
        self.push(function.build(*arguments))

    def build(self) -> None:
        """Drops the attributes of an OrderedDict, such as the `_metadata` of a state dict."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise _unsafe("sets attributes")


def dictionary_of(pairs: Any) -> dict[Any, Any]:
    """A dictionary of (key, value) pairs, whose keys are plain."""
    pairs = [(key, value) for key, value in pairs]
    if not all(_is_key(key) for key, _ in pairs):
        raise TypeError("a key of another type than str, int, float, bytes or None")
    return dict(pairs)


def _is_key(value: Any) -> bool:
    # No tuples: Python hashes them by a recursion without limit. No integers that it would not print.
    return value.bit_length() <= 64 if isinstance(value, int) else isinstance(value, str | float | bytes | None)


def _readable(name: str) -> str:
    module, _, rest = name.partition(".")
    return f"{name[:200]} ({_MODULES[module]}.{rest[:200]})" if module in _MODULES else name[:200]


_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_ARGUMENTS = _NUMBERS | _TEXTS | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}  # the value follows the opcode
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(["PROTO", "FRAME", "STOP"], lambda m, _: None),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.to_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT"], lambda m, index: m.put(index)),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    **dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], lambda m, index: m.push(m.memo[index])),
    "TUPLE": lambda m, _: m.push(tuple(m.to_mark())),
    "TUPLE1": lambda m, _: m.join(1),
    "TUPLE2": lambda m, _: m.join(2),
    "TUPLE3": lambda m, _: m.join(3),
    "LIST": lambda m, _: m.push(m.to_mark()),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.to_mark()),
    "DICT": lambda m, _: m.dictionary(),
    "SETITEM": lambda m, _: m.update([m.stack.pop(), m.stack.pop()][::-1]),
    "SETITEMS": lambda m, _: m.update(m.to_mark()),
    "GLOBAL": lambda m, name: m.find(name.replace(" ", ".", 1)),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.push(m.persistent(m.stack.pop())),
}
