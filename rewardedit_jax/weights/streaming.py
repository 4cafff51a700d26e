"""Safetensors files that are written one tensor at a time, so that a conversion holds no model in memory.

The form: eight bytes with the length of the header, the header in JSON (name → type, shape and place of each tensor),
and the bytes of the tensors. The header comes first: types and shapes are therefore known before any tensor is made.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

# The types of the format that NumPy has too. Without ml_dtypes, safetensors cannot give it bfloat16.
WEIGHT_TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
TYPES = {
    **{code: np.dtype(type_) for code, type_ in WEIGHT_TYPES.items()},
    **{f"{kind}{size}": np.dtype(f"{kind.lower()}{size // 8}") for kind in "IU" for size in (64, 32, 16, 8)},
    "BOOL": np.dtype(bool),
    "C64": np.dtype(np.complex64),
}
_CODES = {dtype: code for code, dtype in TYPES.items()}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is made when it is written; `make` returns an array of this type and shape."""

    dtype: np.dtype
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_safetensors(
    file: Path,
    tensors: Mapping[str, np.ndarray | LazyTensor],
    written: Callable[[int], None] = lambda size: None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, marked as torch tensors so that diffusers and transformers take it.

    Args:
      written: called with the bytes of each tensor, after it.
      metadata: further texts in the header.
    """
    # The order of the library safetensors: with the widest types first, every tensor begins at a multiple of its type.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header, end = {"__metadata__": {"format": "pt", **(metadata or {})}}, 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.nbytes
        place = {"shape": list(tensor.shape), "data_offsets": [start, end]}
        header[name] = {"dtype": _CODES[np.dtype(tensor.dtype)], **place}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            _write(stream, name, tensors[name])
            written(tensors[name].nbytes)


def _write(stream: BinaryIO, name: str, tensor: np.ndarray | LazyTensor) -> None:
    # A function of its own: a variable of the loop would hold one tensor while the next is made.
    array = tensor.make() if isinstance(tensor, LazyTensor) else tensor
    if (array.dtype, array.shape) != (tensor.dtype, tensor.shape):
        planned = f"{tensor.dtype}{list(tensor.shape)}"
        raise TypeError(f"{name} is {array.dtype}{list(array.shape)}, but the header has {planned}.")
    # As bytes, because NumPy gives out no buffer of bfloat16.
    stream.write(memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
