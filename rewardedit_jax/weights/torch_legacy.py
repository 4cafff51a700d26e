"""Files that `torch.save` wrote before PyTorch 1.6, such as the heads of LPIPS: pickles in a row, then the storages."""

import mmap
from collections.abc import Mapping
from io import SEEK_END
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from rewardedit_jax.arguments import check_path
from rewardedit_jax.weights.faults import AGAIN, WeightFileError, naming
from rewardedit_jax.weights.safe_pickle import read_pickle
from rewardedit_jax.weights.torch_pickle import GLOBALS, storage_of
from rewardedit_jax.weights.torch_tensors import Extent, TorchTensors
from rewardedit_jax.weights.torch_zip import LONGEST_PICKLE, is_legacy

_PROTOCOL = 1001
_COUNT = 8  # bytes of the number of elements, before each storage


def read_torch_legacy(path: str | PathLike) -> TorchTensors:
    """The tensors of a file of the form before PyTorch 1.6. Arguments and errors are those of `read_torch_zip`.

    This form has no checksums: values that a download has damaged are not noticed.
    """
    check_path("path", path)
    file = Path(path).expanduser()
    with naming(file), file.open("rb") as stream:
        if not is_legacy(file):
            raise WeightFileError(f"it is not a file of torch.save before 1.6. {AGAIN}")
        itemsizes: dict[str, int] = {}  # of each storage

        def storage(identity: Any) -> Any:
            found = storage_of(identity)
            itemsizes.setdefault(found.key, found.itemsize)
            return found

        length = min(file.stat().st_size, LONGEST_PICKLE)
        with mmap.mmap(stream.fileno(), length, access=mmap.ACCESS_READ) as pickles:
            _, protocol, system = (read_pickle(pickles, {}) for _ in range(3))
            if protocol != _PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
                raise WeightFileError(f"its version is not {_PROTOCOL}, or its numbers are not little-endian.")
            value = read_pickle(pickles, GLOBALS, storage)
            keys = read_pickle(pickles, {})
            stream.seek(pickles.tell())
        return TorchTensors(file, value, _extents(stream, keys, itemsizes))


def _extents(stream: BinaryIO, keys: Any, itemsizes: Mapping[str, int]) -> dict[str, Extent]:
    """Where the storages are, which follow each other in the order of their keys."""
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in itemsizes for key in keys):
        raise WeightFileError(f"its list of storages is damaged. {AGAIN}")
    extents = {}
    for key in keys:
        size = itemsizes[key] * int.from_bytes(stream.read(_COUNT), "little")
        extents[key] = Extent(stream.tell(), size, None)
        if stream.seek(0, SEEK_END) < extents[key].position + size:
            raise WeightFileError(f"it ends within storage {key}. {AGAIN}")
        stream.seek(extents[key].position + size)
    return extents
