"""Guidance: evaluate the network with and without its conditions, and enlarge what each of them changes.

InstructPix2Pix (Brooks et al. 2023, eq. 3) has the first three branches, guidance by reward the fourth:

    text    (instruction, source,  reward)
    image   ("",          source,  reward)
    neither ("",          no source, reward)
    low     (instruction, source,  low or no reward)

    e = e_neither + s_T (e_text - e_image) + s_I (e_image - e_neither) + s_R (e_text - e_low)

All branches go through the network in one batch, the branches of the table above one after the other:

    inputs = stack(branches, "image", source_latents, jnp.zeros_like(source_latents)), ...
    outputs = combine(network(inputs), guidance, branches)
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PyTree, Shaped


class Branch(NamedTuple):
    """Which conditions one evaluation of the network keeps."""

    text: bool
    image: bool
    reward: bool


Branches = tuple[Branch, ...]

TEXT_IMAGE: Branches = (Branch(True, True, True), Branch(False, True, True), Branch(False, False, True))
TEXT_IMAGE_REWARD: Branches = (*TEXT_IMAGE, Branch(True, True, False))


@struct.dataclass
class Guidance:
    """Scales of the three conditions: numbers, or float32[] where compiled; other values do not recompile."""

    text: Any = 7.5  # s_T; 1 is no guidance by text
    image: Any = 1.5  # s_I; 1 is no guidance by the source
    reward: Any = 0.0  # s_R; 0 is no guidance by reward

    @property
    def branches(self) -> Branches:
        """The branches that these scales call for: a fourth only for reward. Asked outside of `jax.jit`."""
        return TEXT_IMAGE_REWARD if self.reward else TEXT_IMAGE


def stack(
    branches: Branches,
    condition: Literal["text", "image", "reward"],
    kept: PyTree[Shaped[Array, "..."]],
    dropped: PyTree[Shaped[Array, "..."]],
) -> PyTree[Shaped[Array, "..."]]:
    """One condition for all branches, [b, ...] → [branches · b, ...]: `dropped` where a branch goes without.

    Both are arrays, or trees of one structure; arrays of `dropped` are broadcast to those of `kept`.
    """

    def rows(with_it: Array, without: Array) -> Array:
        without = jnp.broadcast_to(without, with_it.shape)
        return jnp.concatenate([with_it if getattr(branch, condition) else without for branch in branches])

    return jax.tree.map(rows, kept, dropped)


def repeat(branches: Branches, x: Shaped[Array, "b *shape"]) -> Shaped[Array, "kb *shape"]:
    """What all branches share, such as the noisy latents: [b, ...] → [branches · b, ...]."""
    return jnp.concatenate([x] * len(branches))


def combine(outputs: Float[Array, "kb *shape"], guidance: Guidance, branches: Branches) -> Float[Array, "b *shape"]:
    """The guided output, float32, of the network's raw outputs (eps or v) for all branches."""
    e = outputs.astype(jnp.float32).reshape(len(branches), -1, *outputs.shape[1:])
    text, image, neither = e[:3]
    guided = neither + guidance.text * (text - image) + guidance.image * (image - neither)
    return guided + guidance.reward * (text - e[3]) if branches == TEXT_IMAGE_REWARD else guided
