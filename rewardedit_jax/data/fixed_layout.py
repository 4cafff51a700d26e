"""Trees of arrays as records of a fixed number of bytes, which are read without any parsing.

A record holds the arrays of a tree one after the other, as their bytes lie in memory (little-endian, C order). Names,
shapes and types stand once, in the description of the data set.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
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

    @cached_property
    def _extents(self) -> tuple[tuple[int, int], ...]:
        """Where the bytes of each array begin and end in a record."""
        return tuple(pairwise(accumulate((array.nbytes for array in self.arrays), initial=0)))

    def pack(self, tree: Any) -> bytes:
        """The record of a tree of NumPy arrays."""
        leaves = zip(self.arrays, jax.tree.leaves(tree), strict=True)
        return b"".join(np.ascontiguousarray(leaf, array.stored).tobytes() for array, leaf in leaves)

    def columns(self, count: int) -> list[np.ndarray]:
        """Memory for the arrays of `count` records: uint8[count, nbytes] for each."""
        # As bytes: NumPy copies its own types without the interpreter's lock, and bfloat16 is none of them.
        return [np.empty((count, array.nbytes), np.uint8) for array in self.arrays]

    def fill(self, columns: list[np.ndarray], row: int, record: UInt8[np.ndarray, " _"]) -> None:
        """Copy the bytes of a record into a row of the columns."""
        for column, (start, end) in zip(columns, self._extents, strict=True):
            column[row] = record[start:end]

    def tree(self, columns: list[np.ndarray]) -> Any:
        """The tree of the records in the columns, with a leading batch axis; its leaves have the stored types."""
        pairs = zip(columns, self.arrays, strict=True)
        leaves = [column.view(array.stored).reshape(len(column), *array.shape) for column, array in pairs]
        return jax.tree.unflatten(self.structure, leaves)

    def unpack(self, record: bytes) -> Any:
        """The tree of one record, without a batch axis."""
        columns = self.columns(1)
        self.fill(columns, 0, np.frombuffer(record, np.uint8))
        return jax.tree.map(lambda leaf: leaf[0], self.tree(columns))

    def restore(self, tree: Any) -> Any:
        """The tree with the types of the program, of one with stored types."""
        types = jax.tree.unflatten(self.structure, [array.dtype for array in self.arrays])
        return jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), tree, types)


def _stored(leaf: Any, widest: np.dtype) -> np.dtype:
    """The type of an array in a record: that of the program, unless it is a wider type of floating-point numbers."""
    dtype = np.dtype(leaf.dtype)
    is_wide = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize > widest.itemsize
    return widest if is_wide and math.prod(leaf.shape) >= _FEW else dtype
