"""The tensors in a file of PyTorch, each read from the file when it is asked for, and their names."""

import zlib
from collections.abc import Iterator, Mapping
from itertools import count
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from rewardedit_jax.weights.faults import AGAIN, WeightFileError, naming
from rewardedit_jax.weights.torch_pickle import StoredTensor

_STATE_DICTS = ("state_dict", "model")  # where training programs put the state dict of their network
# A container may contain itself, directly or by others: levels, values in all, and characters of a name.
_DEEPEST, _MOST, _LONGEST = 32, 10_000_000, 10_000
_CHUNK = 1 << 20


class Extent(NamedTuple):
    """Where the bytes of a storage are in the file."""

    position: int
    size: int
    crc: int | None  # checksum; None: the file has none


class TorchTensors(Mapping):  # of str and np.ndarray: with these, a check of types at run time would read a tensor
    """The tensors of a file of PyTorch, each read when it is accessed. `shapes`: tensor name → shape.

    A name is the keys that lead to a tensor, joined with dots: `teacher.head.weight`. What is no tensor is left out. A
    file that has no tensor at its top, but a dictionary under `state_dict` or else `model`, is a training checkpoint:
    only that dictionary is taken, and names begin within it.
    """

    def __init__(self, file: Path, value: Any, extents: Mapping[str, Extent]):
        self._file, self._extents = file, extents
        self._tensors = _named_tensors(value)
        self._verified: set[str] = set()  # storages whose checksum is right
        largest = file.stat().st_size
        for name, tensor in self._tensors.items():
            _check(name, tensor, extents, largest)
        self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in self._tensors.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        if not tensor.span:
            return np.empty(tensor.shape, tensor.dtype)
        with naming(self._file):
            part = self._read(tensor)
        strides = [stride * tensor.dtype.itemsize for stride in tensor.strides]
        # A copy only of what is not contiguous: libraries that write arrays take their buffers as they are.
        return np.asarray(np.ndarray(tensor.shape, tensor.dtype, part, strides=strides), order="C")

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def _read(self, tensor: StoredTensor) -> np.ndarray:
        """The bytes of a storage from the first to the last element of a tensor."""
        extent, size = self._extents[tensor.storage.key], tensor.dtype.itemsize
        # Opened for each tensor: a process may hold the files of many shards.
        with self._file.open("rb") as stream:
            stream.seek(extent.position + tensor.offset * size)
            part = np.fromfile(stream, np.uint8, tensor.span * size)
            if part.nbytes < tensor.span * size:
                raise WeightFileError(f"the file has become shorter while it was read. {AGAIN}")
            if extent.crc is not None and tensor.storage.key not in self._verified:
                found = zlib.crc32(part) if part.nbytes == extent.size else _checksum(stream, extent)
                if found != extent.crc:
                    raise WeightFileError(f"storage {tensor.storage.key} differs from its checksum. {AGAIN}")
                self._verified.add(tensor.storage.key)
        return part


def _checksum(stream: BinaryIO, extent: Extent) -> int:
    stream.seek(extent.position)
    found = 0
    for start in range(0, extent.size, _CHUNK):
        found = zlib.crc32(stream.read(min(_CHUNK, extent.size - start)), found)
    return found


def _check(name: str, tensor: StoredTensor, extents: Mapping[str, Extent], largest: int) -> None:
    """Raises WeightFileError for a tensor whose bytes are not all in the file."""
    storage, size = tensor.storage, tensor.dtype.itemsize
    if storage.key not in extents:
        raise WeightFileError(f"tensor {name} is in storage {storage.key}, which is missing. {AGAIN}")
    extent = extents[storage.key]
    if storage.size != extent.size // storage.itemsize:
        raise WeightFileError(
            f"storage {storage.key} of tensor {name} has {extent.size} bytes: expected {storage.size} elements of "
            f"{storage.itemsize} bytes. {AGAIN}"
        )
    if tensor.span and (tensor.offset + tensor.span) * size > extent.size:
        raise WeightFileError(
            f"tensor {name} of shape {tensor.shape}, strides {tensor.strides}, offset {tensor.offset} and type "
            f"{tensor.dtype} reaches beyond its storage of {extent.size} bytes. {AGAIN}"
        )
    if size * prod(n for n in tensor.shape if n) > largest:
        raise WeightFileError(
            f"tensor {name} of shape {tensor.shape} is larger than the whole file, as it repeats its elements "
            "(torch's expand). Save its clone() instead."
        )


def _named_tensors(value: Any) -> dict[str, StoredTensor]:
    """Name → tensor of what a file holds, by the rule of `TorchTensors`."""
    if not isinstance(value, dict):
        raise WeightFileError(f"it holds {_kind(value)}, where a dictionary of names and tensors is expected.")
    if not any(isinstance(entry, StoredTensor) for entry in value.values()):
        value = next((value[key] for key in _STATE_DICTS if isinstance(value.get(key), dict)), value)
    found: dict[str, StoredTensor] = {}
    for name, tensor in _flat(value, "", count()):
        if found.setdefault(name, tensor) is not tensor:
            raise WeightFileError(f"it has two tensors of the name {name}.")
    if not found:
        raise WeightFileError("it holds no tensors: a dictionary of names and tensors is expected.")
    return found


def _flat(value: Any, prefix: str, seen: Iterator[int], depth: int = 0) -> Iterator[tuple[str, StoredTensor]]:
    """(name, tensor) of all tensors in dictionaries and lists."""
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
        if next(seen) > _MOST:
            raise WeightFileError(f"it has more than {_MOST:,} values.")
        if not isinstance(entry, StoredTensor | dict | list | tuple):
            continue
        name = f"{prefix}{key}"
        if depth > _DEEPEST or len(name) > _LONGEST:
            raise WeightFileError(f"it has keys of more than {_DEEPEST} levels or {_LONGEST:,} characters.")
        if isinstance(entry, StoredTensor):
            yield name, entry
        else:
            yield from _flat(entry, f"{name}.", seen, depth + 1)


def _kind(value: Any) -> str:
    return "a single tensor" if isinstance(value, StoredTensor) else f"a value of type {type(value).__name__}"
