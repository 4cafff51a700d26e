"""A short name for a tree of parameters, which another training, or another precision, does not have."""

import hashlib

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, UInt32

from rewardedit_jax.weights.engine import Params


def fingerprint(params: Params, *beside: str | bytes) -> str:
    """12 hexadecimal digits from names, shapes, types and the sums of the bits of all tensors; no proof against malice.

    Sums of whole numbers are the same on every device, however the tensors are divided: only the sums are fetched.

    Args:
      beside: what else makes a difference.
    """
    sums = jax.device_get(_sums(params))
    told = [f"{name} {x.shape} {x.dtype} {sums[name]}" for name, x in sorted(flatten_dict(params, sep="/").items())]
    digest = hashlib.blake2b(digest_size=6)
    for part in (*told, *beside):
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()


@jax.jit
def _sums(params: Params) -> dict[str, UInt32[Array, ""]]:
    def bits(x: Array) -> Array:
        return jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))

    return {name: bits(x).sum(dtype=jnp.uint32) for name, x in flatten_dict(params, sep="/").items()}
