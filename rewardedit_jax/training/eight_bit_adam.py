"""Adam whose two moments take a byte each (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022).

Each block of 256 values has a scale, its largest absolute value, and each value is a float8 (e4m3) multiple of it. The
second moment is stored as its root, which halves its range, and is what the step divides by.

Rounding is stochastic. With b2 = 0.999 a moment changes by a thousandth in a step: rounded to the nearest of steps of
an eighth, it would never move. The random numbers follow from the number of the step, so that a resumed run has the
same. A stored value is off by less than an eighth of itself and 2^-18 of the largest in its block. Above 2^-14 of the
largest it is right in the mean.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

BLOCK = 256
_CODE, _LARGEST = jnp.float8_e4m3fn, 448.0  # the largest number of the type
_DROPPED = 20  # bits of float32's mantissa that float8 has no place for
_LEAST = 2.0**-18  # of the largest root in a block; a root of 0 would make a step infinite


class EightBitState(NamedTuple):
    """Codes have the shapes and paths of the parameters, and are sharded as they are; scales lie on every device."""

    count: Int[Array, ""]
    mu: Any
    nu: Any  # of the roots
    mu_scales: tuple[Array, ...]  # float32[blocks] for each parameter
    nu_scales: tuple[Array, ...]


def scale_by_eight_bit_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with moments of 8 bits; they are updated, and divided, in float32."""

    def init(params: Any) -> EightBitState:
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, _CODE), params)
        scales = tuple(jnp.zeros(-(-p.size // BLOCK), jnp.float32) for p in jax.tree.leaves(params))
        return EightBitState(jnp.zeros((), jnp.int32), zeros, zeros, scales, scales)

    def update(grads: Any, state: EightBitState, params: Any = None) -> tuple[Any, EightBitState]:
        count = state.count + 1
        leaves, structure = jax.tree.flatten(grads)
        moments = zip(*map(jax.tree.leaves, (state.mu, state.nu)), state.mu_scales, state.nu_scales, strict=True)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), count), len(leaves))
        # Corrections 1 - b**n that are exact in float32, as in `optimizer.scale_by_adam`.
        corrections = [-jnp.expm1(count * (math.log(b) if b else -math.inf)) for b in (b1, b2)]
        found = [_step(*pair, corrections, b1, b2, eps) for pair in zip(leaves, moments, keys, strict=True)]
        updates, mu, nu, mu_scales, nu_scales = zip(*found, strict=True)
        updates, mu, nu = (jax.tree.unflatten(structure, tree) for tree in (updates, mu, nu))
        return updates, EightBitState(count, mu, nu, mu_scales, nu_scales)

    return optax.GradientTransformation(init, update)


def _step(
    grad: Array,
    moments: tuple[Array, ...],
    key: Key[Array, ""],
    corrections: list[Array],
    b1: float,
    b2: float,
    eps: float,
) -> tuple[Array, ...]:
    """(update, codes of both moments, scales of both) of one parameter."""
    (mu, nu, mu_scales, nu_scales), keys = moments, jax.random.split(key)
    g = grad.astype(jnp.float32)
    mean = b1 * decode(mu, mu_scales) + (1 - b1) * g
    root = jnp.sqrt(b2 * decode(nu, nu_scales) ** 2 + (1 - b2) * g**2)
    update = mean / corrections[0] / (root / jnp.sqrt(corrections[1]) + eps)
    mean, root = encode(mean, keys[0]), encode(root, keys[1], least=_LEAST)
    return update.astype(grad.dtype), mean[0], root[0], mean[1], root[1]


def encode(x: Float[Array, "..."], key: Key[Array, ""], least: float = 0.0) -> tuple[Array, Float[Array, " blocks"]]:
    """(codes, scales) of an array. `least`: of absolute values, in units of the largest in their block."""
    blocks = _blocks(x)
    scales = jnp.abs(blocks).max(axis=1)
    unit = jnp.maximum(jnp.abs(blocks) / jnp.maximum(scales, jnp.finfo(jnp.float32).tiny)[:, None], least) * _LARGEST
    # A random number below one unit of the last place that stays, added before the rest is cut off.
    noise = jax.random.bits(key, unit.shape, jnp.uint32) >> (32 - _DROPPED)
    bits = jax.lax.bitcast_convert_type(unit, jnp.uint32) + noise
    cut = jax.lax.bitcast_convert_type(bits >> _DROPPED << _DROPPED, jnp.float32)
    codes = jnp.copysign(jnp.minimum(cut, _LARGEST), blocks).astype(_CODE)
    return codes.reshape(-1)[: x.size].reshape(x.shape), scales


def decode(codes: Array, scales: Float[Array, " blocks"]) -> Float[Array, "..."]:
    """The values that `encode` has stored."""
    values = _blocks(codes.astype(jnp.float32)) * (scales / _LARGEST)[:, None]
    return values.reshape(-1)[: codes.size].reshape(codes.shape)


def _blocks(x: Array) -> Float[Array, "blocks 256"]:
    return jnp.pad(x.reshape(-1), (0, -x.size % BLOCK)).reshape(-1, BLOCK)
