"""Classifier-free guidance (Ho & Salimans 2022) as one weight vector over the branches of a batch.

A branch is one evaluation of the network with some of its conditions replaced, for instance by an empty prompt. Every
published guidance formula is a linear combination of such outputs, so its scales can be collected into one weight per
branch. InstructPix2Pix (Brooks et al. 2023, eq. 3), extended by guidance towards a reward, is

    e_neither + s_I (e_image - e_neither) + s_T (e_text - e_image) + s_R (e_text - e_low)

    branch     conditions that it has                     weight
    neither    no instruction, no source image            1 - s_I
    image      source image                               s_I - s_T
    text       source image, instruction                  s_T + s_R
    low        source image, instruction, low reward      -s_R

The weights of a guidance formula sum to 1: where all branches agree, the guided output is their common output.
The base editor names its branches, builds their conditions and computes the weights; this file does the arithmetic:

    outputs = network(repeat(x, k), conditions_of_all_branches)
    guided = combine(outputs, weights)
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped


def repeat(x: Shaped[Array, "b *shape"], k: int) -> Shaped[Array, "kb *shape"]:
    """`k` copies of a batch, one after the other: [b, ...] → [k·b, ...]. For inputs that all branches share."""
    return jnp.concatenate([x] * k)


def combine(outputs: Float[Array, "kb *shape"], weights: Float[Array | np.ndarray, " k"]) -> Float[Array, "b *shape"]:
    """Weighted sum of the branches' outputs, float32: [k·b, ...] → [b, ...].

    Args:
      outputs: raw outputs of the network (eps, v or velocity), the batches of the branches one after the other.
      weights: one weight per branch. As an array it is traced, so other guidance scales do not recompile.
    """
    branches = outputs.astype(jnp.float32).reshape(len(weights), -1, *outputs.shape[1:])
    weights = jnp.asarray(weights, jnp.float32).reshape(-1, *[1] * (branches.ndim - 1))
    # Not a dot product: accelerators may round its operands to bfloat16 or TF32, and large weights of opposite signs
    # would amplify that error.
    return jnp.sum(weights * branches, axis=0)
