"""A cache of vision features on the devices: the source of many edits is encoded once.

The features of all images lie in one array with a fixed number of slots, one image per slot. Programs get slot numbers
as inputs. The same programs therefore serve any mix of images, whenever each of them was encoded.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int32, UInt8

from rewardedit_jax.models.edit_reward import EditReward
from rewardedit_jax.models.qwen2_5_vl import ImageFeatures
from rewardedit_jax.models.vision_plan import VisionPlan, plan_images
from rewardedit_jax.params import Params
from rewardedit_jax.scoring.images import PreparedImage, normalise_patches
from rewardedit_jax.scoring.packing import feature_width, round_up, stack_images
from rewardedit_jax.sharding import batch_sharding, replicated


class FeatureCache:
    """Features of up to `capacity` images; the least recently used image is replaced first."""

    def __init__(self, module: EditReward, params: Params, mesh: Mesh, batch_size: int, capacity: int):
        """An empty cache. One program encodes `batch_size` images, a number that the mesh must divide."""
        self._module, self._params, self._mesh = module, params, mesh
        self._batch_size, self._capacity = batch_size, capacity
        self._slots: OrderedDict[bytes, int] = OrderedDict()  # by digest, least recently used first
        self.features = jax.device_put(_empty_features(module, capacity), replicated(mesh))

    def __contains__(self, image: PreparedImage) -> bool:
        return image.digest in self._slots

    def first_slot(self, image: PreparedImage) -> int:
        """Row of the image's first feature in the flattened features. Raises KeyError if it is not cached."""
        return self._slots[image.digest] * self.features.values.shape[1]

    def widen(self, images: Iterable[PreparedImage]) -> None:
        """Make slots wide enough for these images, all of a chunk: every width compiles its own programs."""
        # Slots never become narrower, which would compile programs for the old width again.
        if (more := feature_width(images) - self.features.values.shape[1]) > 0:
            self.features = jax.device_put(_wider(self.features, more), replicated(self._mesh))

    def hold(self, needed: Sequence[PreparedImage], later: Iterable[PreparedImage] = ()) -> None:
        """Encode the images of `needed` that are not cached, and fill up the last program with images of `later`."""
        # One program may replace `batch_size` images, none of which may be needed now.
        if len(needed) + self._batch_size > self._capacity:
            raise ValueError(
                f"{len(needed)} images and {self._batch_size} more exceed the capacity of {self._capacity} images."
            )
        # Before anything is encoded, so that no needed image is replaced.
        for image in needed:
            if image in self:
                self._slots.move_to_end(image.digest)
        missing = list(self._missing(needed))
        # A program always has `batch_size` rows, so encoding images of later batches in its free rows costs nothing.
        due = list(islice(self._missing(chain(missing, later)), round_up(len(missing), self._batch_size)))
        for start in range(0, len(due), self._batch_size):
            self._encode(due[start : start + self._batch_size])

    def _missing(self, images: Iterable[PreparedImage]) -> Iterator[PreparedImage]:
        """Each image that is not cached, once."""
        seen = set()
        for image in images:
            if image not in self and image.digest not in seen:
                seen.add(image.digest)
                yield image

    def _encode(self, images: Sequence[PreparedImage]) -> None:
        patches, grids = stack_images(images, self._batch_size)
        plan = plan_images(grids, self._module.config.vision, patches.shape[1])
        # Padding images get a slot out of bounds, which the scatter drops.
        slots = np.full(self._batch_size, self._capacity, np.int32)
        slots[: len(images)] = [self._slot_for(image) for image in images]
        everywhere, divided = replicated(self._mesh), batch_sharding(self._mesh)
        inputs = jax.device_put((slots, patches, plan), (everywhere, divided, divided))
        self.features = _encoded(self._module, everywhere, self._params, self.features, *inputs)

    def _slot_for(self, image: PreparedImage) -> int:
        is_full = len(self._slots) == self._capacity
        slot = self._slots.popitem(last=False)[1] if is_full else len(self._slots)
        self._slots[image.digest] = slot
        return slot


def _empty_features(module: EditReward, capacity: int) -> ImageFeatures:
    values = np.zeros((capacity, 0, module.config.text.hidden_size), module.dtype)
    coordinates = np.zeros((capacity, 0), np.int32)
    return ImageFeatures(values, coordinates, coordinates)


def _wider(features: ImageFeatures, more: int) -> ImageFeatures:
    """The features with `more` zeros behind those of each image."""
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, more), *[(0, 0)] * (x.ndim - 2))), features)


# The cached features are donated: the result is written into their memory, and a cache of gigabytes exists once.
@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _encoded(
    module: EditReward,
    everywhere: NamedSharding,
    params: Params,
    cached: ImageFeatures,
    slots: Int32[Array, " n"],
    patches: UInt8[Array, "n p c"],
    plan: VisionPlan,
) -> ImageFeatures:
    """`cached` with the features of these images in these slots."""
    logging.info("compiling the image encoder for batches of %d images of %d patches", *patches.shape[:2])
    new = module.apply({"params": params}, normalise_patches(patches), plan, method="encode")
    # Whole slots are overwritten, so that nothing remains of a larger image that was there before.
    new = _wider(new, cached.values.shape[1] - new.values.shape[1])
    merged = jax.tree.map(lambda old, x: old.at[slots].set(x, mode="drop"), cached, new)
    return jax.lax.with_sharding_constraint(merged, everywhere)
