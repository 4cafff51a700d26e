"""What the pickle of a state dict may say: PyTorch's names of types, storages and tensors, and what stands for each.

A tensor is a part of a storage: a type, an offset, a shape and strides. Several tensors may be parts of one storage.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.safe_pickle import Constructor, dictionary_of

_NUMPY = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")
_OTHERS = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
_DTYPES = {name: np.dtype(name) for name in (*_NUMPY, "bool", "complex64", "complex128")}
_DTYPES |= {name: np.dtype(getattr(ml_dtypes, name)) for name in _OTHERS}
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}


@dataclass(frozen=True, slots=True)
class _StorageType:
    """The class of a storage. `dtype` None: its elements are bytes, and tensors say their type themselves."""

    dtype: np.dtype | None


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: np.dtype | None
    size: int  # elements

    @property
    def itemsize(self) -> int:
        return 1 if self.dtype is None else self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as its pickle describes it. Offset and strides are counted in elements, as torch does."""

    storage: _Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """Elements of the storage from the first to the last of the tensor."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))


def storage_of(identity: Any) -> _Storage:
    """The storage that a persistent id describes."""
    tag, type_, key, _, size, *view = identity  # not the device, which may be one that this machine lacks
    if tag != "storage" or not isinstance(type_, _StorageType) or not isinstance(key, str) or not _counts((size,)):
        raise TypeError("a persistent id that is no storage")
    if any(part is not None for part in view):
        raise WeightFileError("it has views of storages, which old PyTorch wrote: load and save it with a newer one.")
    return _Storage(key, type_.dtype, size)


def _tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any = None, _hooks: Any = None, metadata: Any = None
) -> StoredTensor:
    return _tensor(storage, None, offset, shape, strides, metadata)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> StoredTensor:
    return _tensor(storage, dtype, offset, shape, strides, metadata)


def _tensor(storage: Any, dtype: Any, offset: Any, shape: Any, strides: Any, metadata: Any) -> StoredTensor:
    if not isinstance(storage, _Storage):
        raise TypeError("a tensor without storage")
    dtype = storage.dtype if dtype is None else dtype
    if not isinstance(dtype, np.dtype):
        raise TypeError("a tensor without type")
    if not _counts((offset,)) or not _counts(shape) or not _counts(strides) or len(shape) != len(strides):
        raise TypeError("a tensor without shape or strides")
    if len(shape) > 32:
        raise ValueError(f"a tensor of {len(shape)} dimensions")
    if metadata:
        raise WeightFileError("it has a tensor that is stored as its conjugate: save its resolve_conj().resolve_neg().")
    # The stride of a dimension with one element is never used, and may have any value.
    strides = tuple(stride if n > 1 else 0 for n, stride in zip(shape, strides, strict=True))
    return StoredTensor(storage, dtype, offset, shape, strides)


def _counts(values: Any) -> bool:
    """Whether it is a tuple, which cannot change later, of integers from 0 to 2⁶³ - 1."""
    return isinstance(values, tuple) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _inert(_value: Any = None, _more: Any = None) -> None:
    """What stands for a value that is no tensor."""


_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda pairs=(): dictionary_of(pairs),
    "torch._utils._rebuild_tensor": _tensor_v2,  # before PyTorch 0.4, without gradient and hooks
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, _grad, _hooks: data,
    "torch.Size": lambda sizes=(): sizes,
    "torch.device": _inert,
    "_codecs.encode": _inert,  # bytes, as protocol 2 writes them
    "builtins.bytes": _inert,
}
# All that the pickle of a state dict may name.
GLOBALS: dict[str, Any] = {
    **{name: Constructor(build) for name, build in _CONSTRUCTORS.items()},
    **{f"torch.{name}": dtype for name, dtype in _DTYPES.items()},
    **{f"torch.{name}Storage": _StorageType(_DTYPES[dtype]) for name, dtype in _STORAGES.items()},
    **dict.fromkeys(["torch.UntypedStorage", "torch.storage.UntypedStorage"], _StorageType(None)),
}
