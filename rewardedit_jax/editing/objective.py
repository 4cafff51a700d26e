"""The training objective of an editor: the squared error of what its base predicts from noisy latents.

The loss of InstructPix2Pix (Brooks et al. 2023, eq. 1), with the reward among the conditions. The base decides which
conditions are dropped how often (`Base.draw_keep`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PRNGKeyArray

from rewardedit_jax.bases.base import Base, Dropout, Precomputed
from rewardedit_jax.data.images import to_unit
from rewardedit_jax.data.pipeline import EditBatch
from rewardedit_jax.params import Params


def precompute(base: Base, params: Params, batch: EditBatch, rng: PRNGKeyArray | None = None) -> Precomputed:
    """The part of the objective before noise. A cache stores its results, the rest trains on either.

    Args:
      rng: for dropout layers of components that train.
    """
    return base.precompute(params, to_unit(batch.source), to_unit(batch.edited), batch.inputs, rng)


def editing_loss(
    base: Base, params: Params, dropout: Dropout, examples: Precomputed, rng: PRNGKeyArray
) -> Float[Array, " b"]:
    """The loss of each example of a batch, float32, with everything random drawn from `rng`."""
    # One key per use: a base that does not drop conditions leaves the noise as it is.
    posterior_rng, drop_rng, time_rng, noise_rng, net_rng = jax.random.split(rng, 5)
    clean = base.latents(examples.edited, posterior_rng)
    keep = base.draw_keep(drop_rng, len(clean), dropout)
    conditions = base.condition(params, examples, keep)
    times = base.process.sample_times(time_rng, clean.shape)
    noise = jax.random.normal(noise_rng, clean.shape)
    loss = denoising_loss(base, params, clean, conditions, times, noise, net_rng)
    # What is no edit counts in the mean, as in SmartEdit's code.
    return loss if examples.is_edit is None else loss * examples.is_edit


def denoising_loss(
    base: Base,
    params: Params,
    clean: Float[Array, "b h w c"],
    conditions: Any,
    times: Num[Array, " b"],
    noise: Float[Array, "b h w c"],
    dropout_rng: PRNGKeyArray | None = None,
) -> Float[Array, " b"]:
    """The same loss for given clean latents, conditions, times and noise."""
    noisy = base.process.add_noise(clean, noise, times)
    output = base.denoise(params, noisy, times, conditions, dropout_rng)
    # In float32, because squares of bfloat16 differences lose most of their digits.
    error = output.astype(jnp.float32) - base.process.target(clean, noise, times)
    return jnp.mean(error**2, axis=(1, 2, 3))
