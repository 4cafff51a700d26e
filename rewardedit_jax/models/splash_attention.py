"""Attention on TPUs without a score matrix in HBM: JAX's splash attention, a Pallas kernel with its gradient.

XLA computes all scores of a self-attention at once, in float32, and its loops over chunks of queries write them to HBM
as well. The kernel keeps the scores of one block in the chip's vector memory, as in FlashAttention (arXiv:2205.14135,
2307.08691). What the compiler counts for both is in docs/scaling.md.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from rewardedit_jax.sharding import batch_axes_in_scope

_LANES = 128  # of a vector register: lengths are multiples of it
_BLOCK = 512  # queries, and keys, whose scores are in vector memory together: 1 MiB of float32
# Bytes of keys that are in vector memory together, as many of values. They are read once if all of them fit.
_KEY_BYTES = 2**20


def splash_supports(queries: int, keys: int) -> bool:
    """Whether the kernel takes these lengths."""
    return queries % _LANES == 0 and keys % _LANES == 0


def splash_attention(
    query: Float[Array, "b q h d"],
    key: Float[Array, "b k h d"],
    value: Float[Array, "b k h d"],
    interpret: bool = False,
) -> Float[Array, "b q h d"]:
    """softmax(query keyᵀ / sqrt(d)) value, of lengths that `splash_supports`.

    Args:
      interpret: compute with XLA what the kernel does, on any backend.
    """
    # Scores are scaled through their queries: the kernel has no argument for it.
    parts = (x.swapaxes(1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
    return _on_each_device(partial(_kernel, interpret=interpret), *parts).swapaxes(1, 2)


def _kernel(query: Array, key: Array, value: Array, interpret: bool) -> Array:
    """Of arrays [b, h, length, d]."""
    # Imported here, as it takes half a second, and computers without a TPU have no use for it.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    (_, heads, queries, _), keys = query.shape, key.shape[2]
    # Between a layer's products, XLA itself lays out heads with the tokens last. It also wastes no memory: a last axis
    # of 40 would be padded to 128.
    layout = dict.fromkeys(("q_layout", "k_layout", "v_layout"), splash.QKVLayout.SEQ_MINOR)
    block_q, block_k = math.gcd(queries, _BLOCK), math.gcd(keys, _BLOCK)
    resident = resident_keys(keys, key.shape[-1], key.dtype.itemsize)
    sizes = splash.BlockSizes(
        block_q=block_q,
        block_kv=resident,
        block_kv_compute=block_k,
        block_q_dkv=block_q,
        block_kv_dkv=resident,
        block_kv_dkv_compute=block_k,
        use_fused_bwd_kernel=True,  # all gradients from one computation of the scores
        **layout,
    )
    mask = splash.MultiHeadMask([splash.FullMask((queries, keys))] * heads)
    kernel = splash.make_splash_mha(mask, head_shards=1, q_seq_shards=1, block_sizes=sizes, interpret=interpret)
    return jax.vmap(kernel)(query, key, value)


def resident_keys(keys: int, width: int, itemsize: int) -> int:
    """Keys that are in vector memory together: a divisor of all, in whole blocks."""
    row = -(-width // _LANES) * _LANES * itemsize
    blocks = keys // (block := math.gcd(keys, _BLOCK))
    fits = (n for n in range(1, blocks + 1) if blocks % n == 0 and n * block * row <= _KEY_BYTES)
    return block * max(fits, default=1)


def _on_each_device(kernel: Callable[..., Array], *arrays: Array) -> Array:
    """Runs a kernel on each device's examples and heads: XLA cannot divide it over the mesh that is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return kernel(*arrays)
    batch, heads, *_ = arrays[0].shape
    # What does not divide evenly is computed whole by each device.
    spec = PartitionSpec(
        batch_axes_in_scope(batch) or None,
        "tensor" if heads % mesh.shape.get("tensor", heads) == 0 and "tensor" in mesh.axis_names else None,
    )
    # Pallas does not say over which axes its results vary.
    return jax.shard_map(kernel, in_specs=spec, out_specs=spec, check_vma=False)(*arrays)
