"""What a record of the cache holds: one example after the networks that need not train (`bases.base.Precomputed`).

A record has the arrays of the two images, of their mirror images where the recipe mirrors examples (autoencoders do not
commute with a flip), and those of the request once. What all examples share is a file of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from rewardedit_jax.bases.base import Base, Precomputed
from rewardedit_jax.data.fixed_layout import Layout, StoredArray
from rewardedit_jax.data.pipeline import EditBatch
from rewardedit_jax.editing.objective import precompute
from rewardedit_jax.params import Params


@dataclass(frozen=True)
class CacheLayout:
    """The arrays of a record. Each part is a `Precomputed` of which the other fields are None."""

    images: Layout
    request: Layout
    shared: Layout
    views: int  # 2: the example and its mirror image; 1: the example alone

    @classmethod
    def of(cls, base: Base, params: Params, resolution: int, flip: bool, dtype: str) -> "CacheLayout":
        """The layout of a base's examples; traces its networks once.

        Args:
          params: of the components that precompute, or their descriptions.
          dtype: as for `Layout.of`.
        """
        return cls.of_example(base, params, empty_batch(base, 1, resolution), flip, dtype)

    @classmethod
    def of_example(cls, base: Base, params: Params, example: EditBatch, flip: bool, dtype: str) -> "CacheLayout":
        """The layout of a base's examples, of which one is given, or its description."""
        described = jax.eval_shape(partial(precompute, base), params, example)
        parts = (Layout.of(part, dtype) for part in (*example_parts(_first(described)), shared_part(described)))
        return cls(*parts, views=1 + flip)

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """Of all parts; a record has those of `images` once for each view."""
        return self.images.arrays + self.request.arrays + self.shared.arrays

    def pack(self, views: Sequence[Precomputed]) -> bytes:
        """The record of an example: NumPy arrays of each view, without a batch axis."""
        images = [self.images.pack(example_parts(view)[0]) for view in views]
        return b"".join([*images, self.request.pack(example_parts(views[0])[1])])

    def unpack(self, records: Sequence[bytes], rows: Sequence[int], mirrored: Sequence[bool]) -> Precomputed:
        """The batch of some rows of the records, each mirrored or not. Leaves have the stored types; no `shared`."""
        images, request = self.images.columns(len(rows)), self.request.columns(len(rows))
        size = self.images.nbytes
        for i, (row, mirror) in enumerate(zip(rows, mirrored, strict=True)):
            record = np.frombuffer(records[row], np.uint8)
            self.images.fill(images, i, record[size * mirror : size * (mirror + 1)])
            self.request.fill(request, i, record[size * self.views :])
            del record  # leaves its memory, which lies in the processor's cache, to the next one
        return self.images.tree(images).replace(request=self.request.tree(request).request)

    def restore(self, batch: Precomputed, shared: Precomputed) -> Precomputed:
        """Traced: the batch with the types that `Base.precompute` gives, and with what all examples share."""
        images, request = example_parts(batch)
        images, request, shared = (
            layout.restore(part)
            for layout, part in ((self.images, images), (self.request, request), (self.shared, shared))
        )
        return images.replace(request=request.request, shared=shared.shared)


def empty_batch(base: Base, count: int, resolution: int) -> EditBatch:
    """Black images with the empty instruction and no reward."""
    images = np.zeros((count, resolution, resolution, 3), np.uint8)
    inputs = base.read(list(images), [""] * count, [None] * count, lambda text, cut: None)
    return EditBatch(images, images, inputs)


def shared_part(examples: Precomputed) -> Precomputed:
    """What all examples share alone."""
    return Precomputed(None, None, None, examples.shared)


def example_parts(examples: Precomputed) -> tuple[Precomputed, Precomputed]:
    """(what depends on the images, what depends on the request) of examples."""
    return examples.replace(request=None, shared=None), Precomputed(None, None, examples.request, None)


def _first(examples: Precomputed) -> Precomputed:
    """The description of one example, of that of a batch."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), examples.replace(shared=None))
    return one.replace(shared=examples.shared)
