"""What the vision tower made of the images met last, kept on the devices: a source is encoded once for all its edits.

Features lie in one array of so many slots, an image in each. Slots are numbers that a program is handed, so that
whatever an image's neighbours are, and whenever it was encoded, the programs are the same.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int32

from rewardedit_jax.models.edit_reward import EditReward
from rewardedit_jax.models.qwen2_5_vl import ImageFeatures
from rewardedit_jax.models.vision_plan import VisionPlan, plan_images
from rewardedit_jax.params import Params
from rewardedit_jax.scoring.images import PreparedImage
from rewardedit_jax.scoring.packing import feature_width, round_up, stack_images
from rewardedit_jax.sharding import batch_sharding, replicated


class FeatureCache:
    """Features of up to `capacity` images, of which the ones used longest ago make room."""

    def __init__(self, module: EditReward, params: Params, mesh: Mesh, at_a_time: int, capacity: int):
        """Empty; `at_a_time` images are encoded by one program, and the mesh must divide that number."""
        self._module, self._params, self._mesh = module, params, mesh
        self._at_a_time, self._capacity = at_a_time, capacity
        self._slots: OrderedDict[bytes, int] = OrderedDict()  # by digest, used longest ago first
        self.features = jax.device_put(_no_features(module, capacity), replicated(mesh))

    def __contains__(self, image: PreparedImage) -> bool:
        return image.digest in self._slots

    def first_slot(self, image: PreparedImage) -> int:
        """The row of the flattened features that the first of the image's is. Raises KeyError if it is not held."""
        return self._slots[image.digest] * self.features.values.shape[1]

    def widen(self, images: Iterable[PreparedImage]) -> None:
        """Make room for images as large as these, before they are held; what is held stays.

        Of all that will come rather than of each, as every width compiles programs of its own.
        """
        wanted = feature_width(images)
        if (more := wanted - self.features.values.shape[1]) > 0:
            self.features = jax.device_put(_wider(self.features, more), replicated(self._mesh))

    def hold(self, needed: Sequence[PreparedImage], afterwards: Iterable[PreparedImage] = ()) -> None:
        """Encode what is missing of `needed`, and until a program is full what comes `afterwards`.

        Raises:
          ValueError: for more images than can be held together.
        """
        if len(needed) + self._at_a_time > self._capacity:
            raise ValueError(f"{len(needed)} images and {self._at_a_time} more are over capacity {self._capacity}.")
        for image in needed:
            if image in self:
                self._slots.move_to_end(image.digest)
        missing = list(self._missing(needed))
        due = list(islice(self._missing(chain(missing, afterwards)), round_up(len(missing), self._at_a_time)))
        for start in range(0, len(due), self._at_a_time):
            self._encode(due[start : start + self._at_a_time])

    def _missing(self, images: Iterable[PreparedImage]) -> Iterator[PreparedImage]:
        """Each that is not held, once."""
        met = set()
        for image in images:
            if image not in self and image.digest not in met:
                met.add(image.digest)
                yield image

    def _encode(self, images: Sequence[PreparedImage]) -> None:
        patches, grids = stack_images(images, self._at_a_time)
        plan = plan_images(grids, self._module.config.vision, patches.shape[1])
        slots = np.full(self._at_a_time, self._capacity, np.int32)  # of padding images: none, what is written is lost
        slots[: len(images)] = [self._slot_for(image) for image in images]
        everywhere, spread = replicated(self._mesh), batch_sharding(self._mesh)
        inputs = jax.device_put((slots, patches, plan), (everywhere, spread, spread))
        self.features = _encoded(self._module, everywhere, self._params, self.features, *inputs)

    def _slot_for(self, image: PreparedImage) -> int:
        full = len(self._slots) == self._capacity
        slot = self._slots.popitem(last=False)[1] if full else len(self._slots)
        self._slots[image.digest] = slot
        return slot


def _no_features(module: EditReward, capacity: int) -> ImageFeatures:
    values = np.zeros((capacity, 0, module.config.text.hidden_size), module.dtype)
    at = np.zeros((capacity, 0), np.int32)
    return ImageFeatures(values, at, at)


def _wider(features: ImageFeatures, more: int) -> ImageFeatures:
    """With room for so many more features of each image."""
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, more), *[(0, 0)] * (x.ndim - 2))), features)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _encoded(
    module: EditReward,
    everywhere: NamedSharding,
    params: Params,
    held: ImageFeatures,
    slots: Int32[Array, " n"],
    patches: Float[Array, "n p c"],
    plan: VisionPlan,
) -> ImageFeatures:
    """`held` with these images in these slots."""
    new = module.apply({"params": params}, patches, plan, method="encode")
    new = _wider(new, held.values.shape[1] - new.values.shape[1])
    both = jax.tree.map(lambda old, x: old.at[slots].set(x, mode="drop"), held, new)
    return jax.lax.with_sharding_constraint(both, everywhere)
