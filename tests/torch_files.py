"""Files of PyTorch, written without it: the zip that `torch.save` writes, from NumPy arrays, with any pickle in it."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

STORAGES = {
    "float64": "Double",
    "float32": "Float",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
    "complex64": "ComplexFloat",
    "complex128": "ComplexDouble",
}


class Global:
    """A global of a pickle, which has its name only."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self, *_: Any) -> None:
        raise AssertionError("a pickle only asks whether it could be called")


class Part(NamedTuple):
    """A tensor that is a part of a storage. Strides count elements, as in PyTorch."""

    storage: np.ndarray
    offset: int
    shape: tuple
    strides: tuple


class Call(NamedTuple):
    """The result of a global that is called."""

    function: Global
    arguments: tuple


class Storage(NamedTuple):
    """A storage by itself."""

    content: np.ndarray


class _Pickler(pickle._Pickler):  # the one in Python, as a subclass of the other cannot write opcodes
    def __init__(self, stream, protocol):
        super().__init__(stream, protocol)
        self.storages: list[np.ndarray] = []

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        keys = [i for i, known in enumerate(self.storages) if known is obj.content]
        key = keys[0] if keys else len(self.storages)
        if not keys:
            self.storages.append(obj.content)
        untyped = obj.content.dtype.name not in STORAGES
        kind = Global(
            "torch.storage" if untyped else "torch", f"{STORAGES.get(obj.content.dtype.name, 'Untyped')}Storage"
        )
        return "storage", kind, str(key), "cuda:0", obj.content.nbytes if untyped else obj.content.size

    def reducer_override(self, obj):
        if isinstance(obj, np.ndarray):
            strides = tuple(stride // obj.itemsize for stride in np.empty(obj.shape, obj.dtype).strides)
            obj = Part(obj.reshape(-1), 0, obj.shape, strides)
        if isinstance(obj, Part):
            typed = obj.storage.dtype.name in STORAGES
            more = () if typed else (Global("torch", obj.storage.dtype.name),)
            where = (Storage(obj.storage), obj.offset, obj.shape, obj.strides, False, OrderedDict())
            return Global("torch._utils", f"_rebuild_tensor_v{2 if typed else 3}"), (*where, *more)
        return (obj.function, obj.arguments) if isinstance(obj, Call) else NotImplemented

    def save_name(self, obj):
        self.write(f"c{obj.module}\n{obj.name}\n".encode())

    # NumPy arrays and named tuples come to `reducer_override`, which the entries for their bases precede.
    dispatch: ClassVar = {**pickle._Pickler.dispatch, Global: save_name}


def pickled(value: Any, protocol: int = 2) -> tuple[bytes, list[np.ndarray]]:
    """(pickle, storages) of a value with arrays, `Part`s and `Call`s in it."""
    stream = io.BytesIO()
    pickler = _Pickler(stream, protocol)
    pickler.dump(value)
    return stream.getvalue(), pickler.storages


def members_of(value: Any, protocol: int = 2) -> dict[str, bytes]:
    """The members of the zip."""
    content, storages = (value, []) if isinstance(value, bytes) else pickled(value, protocol)
    data = {f"archive/data/{key}": storage.tobytes() for key, storage in enumerate(storages)}
    return {"archive/data.pkl": content, "archive/byteorder": b"little", **data, "archive/version": b"3\n"}


def write_zip(file: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def save_torch_zip(value: Any, file: Path, protocol: int = 2) -> Path:
    """Writes the file that `torch.save` would; of bytes, these are the pickle."""
    return write_zip(file, members_of(value, protocol))
