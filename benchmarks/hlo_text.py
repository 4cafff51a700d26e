"""The text of a compiled XLA program, read into instructions, and how often each of them runs.

XLA's own `cost_analysis()` counts the body of a loop once. Here every instruction counts as often as it runs: the trip
count of a loop is what XLA has noted, or the constant that its condition compares with.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "token": 0, "opaque": 0}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Value:
    """One array of an instruction's result."""

    dtype: str
    shape: tuple[int, ...]
    on_chip: bool  # in the vector memory of a TPU ("memory space 1"), not in HBM

    @property
    def nbytes(self) -> int:
        bits = _BITS[self.dtype] if self.dtype in _BITS else int(re.sub(r"\D.*", "", self.dtype[1:]) or 0)
        return math.prod(self.shape) * bits // 8


@dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    values: tuple[Value, ...]
    operands: tuple[str, ...]
    attributes: str

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern in the attributes."""
        found = re.search(pattern, self.attributes)
        return found and found[1]


@dataclass
class Program:
    """A compiled program. Instructions have names that are unique in it."""

    computations: dict[str, list[Instruction]] = field(default_factory=lambda: defaultdict(list))
    entry: str = ""
    unknown_loops: set[str] = field(default_factory=set)  # whose trip count the text does not give: counted once

    @classmethod
    def parse(cls, text: str) -> "Program":
        """The program in `Compiled.as_text()`."""
        program, name = cls(), ""
        for line in text.splitlines():
            if header := _HEADER.match(line):
                name = header[2]
                program.entry = name if header[1] else program.entry
            elif found := _INSTRUCTION.match(line):
                program.computations[name].append(_instruction(found[2], found[3]))
        if not program.entry:
            raise ValueError("the text has no ENTRY computation: expected Compiled.as_text()")
        return program

    @cached_property
    def values(self) -> dict[str, tuple[Value, ...]]:
        return {i.name: i.values for body in self.computations.values() for i in body}

    @cached_property
    def runs(self) -> Counter[str]:
        """How often each computation runs in one run of the program."""
        runs: Counter[str] = Counter()

        def visit(name: str, times: int) -> None:
            runs[name] += times
            for instruction in self.computations[name]:
                trips = self._trips(instruction) if instruction.opcode == "while" else 1
                for called in _called(instruction):
                    visit(called, times * trips)

        visit(self.entry, 1)
        return runs

    def _trips(self, loop: Instruction) -> int:
        if noted := loop.attribute(r'known_trip_count":\{"n":"(\d+)"'):
            return int(noted)
        condition = self.computations[loop.attribute(r"condition=%?([\w.\-]+)")]
        limits = [i.attribute(r"^(\d+)$") for i in condition if i.opcode == "constant"]
        if len(limits) == 1 and limits[0]:
            return int(limits[0])
        self.unknown_loops.add(loop.name)
        return 1

    @cached_property
    def _fused(self) -> set[str]:
        """Computations of fusions, reductions and transfers, whose instructions do not go through memory."""
        inner = (
            "fusion",
            "reduce",
            "scatter",
            "sort",
            "map",
            "reduce-window",
            "select-and-scatter",
            "async",
            *COLLECTIVES,
        )
        return {
            called
            for body in self.computations.values()
            for i in body
            if i.opcode.removesuffix("-start") in inner
            for called in _called(i)
        }

    def executed(self, fused: bool = False) -> Iterator[tuple[Instruction, int]]:
        """Every instruction that runs, and how often. Those within fusions are left out unless `fused`."""
        for name, times in self.runs.items():
            if fused or name not in self._fused:
                yield from ((instruction, times) for instruction in self.computations[name])


def _instruction(name: str, rest: str) -> Instruction:
    """An instruction from what follows its name: `shape opcode(operands), attributes`."""
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    values = tuple(
        Value(dtype, tuple(numbers(shape.replace("<=", ""))), "S(1)" in (layout or ""))
        for dtype, shape, layout in _ARRAY.findall(re.sub(r"/\*.*?\*/", "", rest[:end]))
    )
    opcode, _, _ = rest[end:].strip().partition("(")
    opening = rest.index("(", end)
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    if opcode == "constant":  # its value takes the place of operands
        return Instruction(name, opcode, values, (), inside)
    return Instruction(name, opcode, values, tuple(re.findall(r"%([\w.\-]+)", inside)), rest[closing + 1 :])


def _closing(text: str, opening: int) -> int:
    """The index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.start()
    raise ValueError(f"no closing parenthesis in {text[opening : opening + 80]!r}")


def _called(i: Instruction) -> list[str]:
    named = _CALLED.findall(i.attributes)
    branches = _BRANCHES.search(i.attributes)
    return named + (re.findall(r"%?([\w.\-]+)", branches[1]) if branches else [])


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
