"""Trees of arrays as records of a fixed number of bytes, which are read without any parsing.

A record holds the arrays of a tree one after the other, as their bytes lie in memory (little-endian, C order). Names,
shapes and types stand once, in the description of the data set.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

# Smaller arrays, such as scores, keep their type: rounding them would save nothing.
_FEW = 16


@dataclass(frozen=True)
class StoredArray:
    """One array of a record."""

    name: str  # its path in the tree, such as "edited/mean"
    shape: tuple[int, ...]  # without a batch axis
    dtype: np.dtype  # in the program
    stored: np.dtype  # in the record

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.stored.itemsize


@dataclass(frozen=True)
class Layout:
    """The arrays of a record in their order, and the tree that they are the leaves of."""

    arrays: tuple[StoredArray, ...]
    structure: Any  # jax.tree_util.PyTreeDef

    @classmethod
    def of(cls, tree: Any, dtype: str) -> "Layout":
        """The layout of a tree of arrays, or of their descriptions.

        Args:
          dtype: the widest type of floating-point numbers in a record, "bfloat16" or "float32".
        """
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        arrays = [
            StoredArray(
                jax.tree_util.keystr(path, simple=True, separator="/"),
                tuple(leaf.shape),
                np.dtype(leaf.dtype),
                _stored(leaf, jnp.dtype(dtype)),
            )
            for path, leaf in leaves
        ]
        return cls(tuple(arrays), structure)

    @property
    def nbytes(self) -> int:
        """Of a record."""
        return sum(array.nbytes for array in self.arrays)

    def pack(self, tree: Any) -> bytes:
        """The record of a tree of NumPy arrays."""
        leaves = zip(self.arrays, jax.tree.leaves(tree), strict=True)
        return b"".join(np.ascontiguousarray(leaf, array.stored).tobytes() for array, leaf in leaves)

    def unpack(self, records: Sequence[UInt8[np.ndarray, " _"]]) -> Any:
        """The tree of records, with a leading batch axis; its leaves have the stored types.

        Args:
          records: bytes that begin with the record.
        """
        count, leaves, start = len(records), [], 0
        # One allocation: the system clears fresh memory, which takes longer for many arrays than to copy into them.
        memory = np.empty(sum(_aligned(count * array.nbytes) for array in self.arrays), np.uint8)
        for array in self.arrays:
            # As bytes: NumPy copies its own types without the interpreter's lock, and bfloat16 is none of them.
            column, memory = memory[: count * array.nbytes], memory[_aligned(count * array.nbytes) :]
            end = start + array.nbytes
            np.concatenate([record[start:end] for record in records], out=column)
            leaves.append(column.view(array.stored).reshape(count, *array.shape))
            start = end
        return jax.tree.unflatten(self.structure, leaves)

    def restore(self, tree: Any) -> Any:
        """The tree with the types of the program, of one that `unpack` gave."""
        types = jax.tree.unflatten(self.structure, [array.dtype for array in self.arrays])
        return jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), tree, types)


def _aligned(nbytes: int) -> int:
    """The next multiple of a cache line, at which the next array begins."""
    return -(-nbytes // 64) * 64


def _stored(leaf: Any, widest: np.dtype) -> np.dtype:
    """The type of an array in a record: that of the program, unless it is a wider type of floating-point numbers."""
    dtype = np.dtype(leaf.dtype)
    is_wide = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize > widest.itemsize
    return widest if is_wide and math.prod(leaf.shape) >= _FEW else dtype
