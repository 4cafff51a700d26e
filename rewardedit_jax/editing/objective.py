"""The training objective of a reward-conditioned InstructPix2Pix.

Latents z = scaling · sample(E(edited)), condition c_I = mode(E(source)) *not* scaled, as InstructPix2Pix has it.
One uniform p per sample drops conditions with d = `conditioning_dropout`: text → "" where p < 2d, image → 0 where
d ≤ p < 3d, so each of text only, both, image only is dropped with probability d. The reward is dropped on its own, with
`reward_dropout`, which is what gives reward guidance a branch to be measured against.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from rewardedit_jax.data.images import to_unit
from rewardedit_jax.data.pipeline import EditBatch
from rewardedit_jax.diffusion.process import NoiseProcess
from rewardedit_jax.editing.networks import (
    Networks,
    RewardStates,
    encode_image,
    encode_text,
    predict,
    reward_states,
)
from rewardedit_jax.params import Params


class Dropout(NamedTuple):
    """Probabilities of training without a condition."""

    conditioning: float  # d of the module's docstring; 3d of the samples miss something
    reward: float


class Conditions(NamedTuple):
    """What the U-Net is told besides the noisy latents."""

    latents: Float[Array, "b h w c"]  # of the source image
    context: Float[Array, "b l d"]
    reward: RewardStates | None


def editing_loss(
    networks: Networks,
    params: Params,
    schedule: NoiseProcess,
    dropout: Dropout,
    batch: EditBatch,
    null_ids: Int[Array, " l"],
    rng: PRNGKeyArray,
) -> Float[Array, " b"]:
    """Per-example squared error of the predicted noise (or velocity), float32. `null_ids`: the tokens of ""."""
    posterior_rng, drop_rng, time_rng, noise_rng, net_rng = jax.random.split(rng, 5)
    pictures = to_unit(jnp.concatenate([batch.edited, batch.source]))
    edited, source = _halves(encode_image(networks, params, pictures))
    clean = edited.sample(posterior_rng) * networks.vae.config.scaling_factor
    conditions = _conditions(networks, params, dropout, batch, source.mode, null_ids, drop_rng)
    timesteps = schedule.sample_times(time_rng, clean.shape)
    noise = jax.random.normal(noise_rng, clean.shape)
    return denoising_loss(networks, params, schedule, clean, conditions, timesteps, noise, net_rng)


def denoising_loss(
    networks: Networks,
    params: Params,
    schedule: NoiseProcess,
    clean: Float[Array, "b h w c"],
    conditions: Conditions,
    timesteps: Int[Array, " b"],
    noise: Float[Array, "b h w c"],
    dropout_rng: PRNGKeyArray | None = None,
) -> Float[Array, " b"]:
    """The same for given latents, noise and timesteps."""
    noisy = schedule.add_noise(clean, noise, timesteps)
    output = predict(
        networks,
        params,
        noisy,
        conditions.latents,
        timesteps,
        conditions.context,
        conditions.reward,
        dropout_rng,
    )
    error = output.astype(jnp.float32) - schedule.target(clean, noise, timesteps)
    return jnp.mean(error**2, axis=(1, 2, 3))


def _conditions(
    networks: Networks,
    params: Params,
    dropout: Dropout,
    batch: EditBatch,
    latents: Float[Array, "b h w c"],
    null_ids: Int[Array, " l"],
    rng: PRNGKeyArray,
) -> Conditions:
    drop_rng, reward_rng = jax.random.split(rng)
    text, image = keep_conditions(drop_rng, len(latents), dropout.conditioning)
    ids = jnp.where(_per_sample(text, 2), batch.instruction_ids, null_ids)
    latents = jnp.where(_per_sample(image, 4), latents, 0)
    if networks.unet.config.reward is None:
        return Conditions(latents, encode_text(networks, params, ids).last_hidden, None)
    states = encode_text(networks, params, jnp.concatenate([ids, batch.reward_ids]))
    instruction, feedback = _halves(states)
    keep = jax.random.bernoulli(reward_rng, 1 - dropout.reward, (len(latents),)).astype(jnp.float32)
    return Conditions(latents, instruction.last_hidden, reward_states(networks, feedback, batch.scores, keep))


def keep_conditions(rng: PRNGKeyArray, batch: int, d: float) -> tuple[Bool[Array, " {batch}"], Bool[Array, " {batch}"]]:
    """(whether a sample keeps its instruction, whether it keeps its source image)."""
    p = jax.random.uniform(rng, (batch,))
    return p >= 2 * d, (p < d) | (p >= 3 * d)


def _halves(tree: PyTree) -> tuple[PyTree, PyTree]:
    """A struct of arrays over two batches laid end to end → the two structs."""
    return tuple(jax.tree.map(lambda x, i=i: jnp.split(x, 2)[i], tree) for i in range(2))


def _per_sample(mask: Bool[Array, " b"], ndim: int) -> Bool[Array, "b ..."]:
    return mask.reshape(-1, *[1] * (ndim - 1))
