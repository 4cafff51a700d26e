"""A whole edit as one jitted function: encode, denoise under guidance, decode. Compiled once per shape."""

from functools import partial
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

from rewardedit_jax.diffusion.guidance import combine, repeat
from rewardedit_jax.diffusion.samplers import SamplerTable, sample
from rewardedit_jax.editing.networks import (
    Networks,
    RewardStates,
    decode_latents,
    encode_image,
    encode_text,
    predict,
    reward_states,
)
from rewardedit_jax.params import Params


class Branch(NamedTuple):
    """Which conditions one evaluation of the network has."""

    text: bool
    image: bool
    reward: bool


Branches = tuple[Branch, ...]

TEXT_IMAGE: Branches = (Branch(True, True, True), Branch(False, True, True), Branch(False, False, True))
TEXT_IMAGE_REWARD: Branches = (*TEXT_IMAGE, Branch(True, True, False))


@flax.struct.dataclass
class Guidance:
    """Guidance scales of InstructPix2Pix (Brooks et al. 2023, eq. 3) and of the reward."""

    text: Any  # s_T; 1 disables guidance by text
    image: Any  # s_I; 1 disables guidance by the source image
    reward: Any  # s_R; 0 disables guidance by reward

    @property
    def branches(self) -> Branches:
        """The branches that these scales need. Not available inside `jax.jit`."""
        return TEXT_IMAGE_REWARD if self.reward else TEXT_IMAGE

    def weights(self, branches: Branches) -> Float[Array, " k"]:
        """One weight per branch for `combine`."""
        text, image, reward = self.text, self.image, self.reward
        return jnp.stack([text + reward, image - text, 1 - image, -reward][: len(branches)])


def stack(
    branches: Branches,
    condition: Literal["text", "image", "reward"],
    kept: PyTree[Shaped[Array, "..."]],
    dropped: PyTree[Shaped[Array, "..."]],
) -> PyTree[Shaped[Array, "..."]]:
    """One condition for all branches, [b, ...] → [k·b, ...]: `kept` where a branch has it, else `dropped`."""

    def rows(with_it: Array, without: Array) -> Array:
        without = jnp.broadcast_to(without, with_it.shape)
        return jnp.concatenate([with_it if getattr(branch, condition) else without for branch in branches])

    return jax.tree.map(rows, kept, dropped)


@flax.struct.dataclass
class RewardInputs:
    """Rewards of a batch, before the text encoder."""

    scores: Any  # float32[b, 3] in 0..5
    ids: Any  # int32[b, l]: tokens of the joined feedback texts
    keep: Any  # float32[b]: 0 where there is no reward, else 1


@flax.struct.dataclass
class EditInputs:
    """A batch of edits."""

    source: Any  # float32[b, H, W, 3] in [-1, 1]
    instruction_ids: Any  # int32[b, l]
    null_ids: Any  # int32[l]: tokens of the empty instruction
    reward: RewardInputs | None
    low_reward: RewardInputs | None  # what reward guidance leads away from
    latents: Any  # float32[b, h, w, c], standard normal
    noise: Any  # float32[steps, b, h, w, c], standard normal; None for samplers that add none


@partial(jax.jit, static_argnames=("networks", "branches"))
def edit_batch(
    networks: Networks,
    params: Params,
    inputs: EditInputs,
    table: SamplerTable,
    guidance: Guidance,
    branches: Branches,
) -> Float[Array, "b H W 3"]:
    """Edited images in 0..1.

    Everything that differs between prompts, scales, seeds, schedules or samplers of one kind is an array, so it is
    compiled for the networks, the shapes, the number of steps and the branches only.
    """
    condition = encode_image(networks, params, inputs.source).mode
    context = encode_text(networks, params, inputs.instruction_ids).last_hidden
    no_context = encode_text(networks, params, inputs.null_ids[None]).last_hidden
    conditions = stack(branches, "image", condition, jnp.zeros_like(condition))
    contexts = stack(branches, "text", context, no_context)
    rewards = _reward_of_branches(networks, params, inputs, branches)

    def guided(x: Array, timestep: Array) -> Array:
        x = repeat(x, len(branches))
        outputs = predict(networks, params, x, conditions, jnp.full(len(x), timestep), contexts, rewards)
        return combine(outputs, guidance.weights(branches))

    latents = sample(guided, table, inputs.latents, noise=inputs.noise)
    return decode_latents(networks, params, latents)


def _reward_of_branches(
    networks: Networks, params: Params, inputs: EditInputs, branches: Branches
) -> RewardStates | None:
    if inputs.reward is None:
        return None
    asked, low = (
        reward_states(networks, encode_text(networks, params, r.ids), r.scores, r.keep)
        for r in (inputs.reward, inputs.low_reward)
    )
    return stack(branches, "reward", asked, low)
