"""Scaled dot-product attention: one function, which chooses the kernel by backend and size.

Axes: b batch, q query length, k key length, h heads, g key heads (a divisor of h), d head width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rewardedit_jax.models.splash_attention import splash_attention, splash_supports

Query = Float[Array, "b q h d"]
Keys = Float[Array, "b k h d"]  # or values
GroupedKeys = Float[Array, "b k g d"]
Mask = Bool[Array, "#b #h #q k"] | None

# Queries per chunk: the scores of 512 queries stay in a CPU's cache.
_QUERY_CHUNK = 512
# Up to this many scores per head, computing the whole matrix is faster than a loop over chunks of it.
_SMALL = 512 * 1024


def attention(query: Query, key: GroupedKeys, value: GroupedKeys, mask: Mask = None) -> Query:
    """softmax(query keyᵀ / sqrt(d)) value, with the softmax in float32.

    Args:
      key, value: may have fewer heads than `query` (grouped queries); each serves h / g adjacent query heads.
      mask: True where a query attends to a key; None: everywhere.
    """
    backend = jax.default_backend()
    if backend == "gpu" and _cudnn_supports(query, key, mask):
        return cudnn_attention(query, key, value, mask)
    # The other kernels take one key head per query head.
    key, value = (jnp.repeat(x, query.shape[2] // key.shape[2], axis=2) for x in (key, value))
    is_large = query.shape[1] * key.shape[1] > _SMALL
    if backend == "tpu" and is_large and mask is None and splash_supports(query.shape[1], key.shape[1]):
        return splash_attention(query, key, value)
    same_for_heads = mask is None or mask.shape[1] == 1
    if backend == "cpu" and is_large and same_for_heads:
        return chunked_attention(query, key, value, mask)
    return naive_attention(query, key, value, mask)


def _cudnn_supports(query: Query, key: GroupedKeys, mask: Mask) -> bool:
    """Whether cuDNN's fused kernel runs: half precision, and a head width that is a multiple of 8 and at most 128."""
    # Gradients require even lengths, and whether they will be taken is unknown here. A mask is not padded.
    width, even = query.shape[-1], query.shape[1] % 2 == 0 and key.shape[1] % 2 == 0
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    return half and width % 8 == 0 and width <= 128 and (mask is None or even)


def cudnn_attention(query: Query, key: GroupedKeys, value: GroupedKeys, mask: Mask = None) -> Query:
    """Attention by cuDNN's fused kernel, on a GPU, for what it supports. Odd lengths get a token of padding."""
    queries, keys = query.shape[1], key.shape[1]
    if mask is not None:  # cuDNN broadcasts masks over samples and heads, but not over queries
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], queries, keys))
    query, key, value = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value))
    lengths = jnp.full(len(key), keys, jnp.int32) if keys % 2 else None  # the padding is not attended to
    out = jax.nn.dot_product_attention(
        query, key, value, mask=mask, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return out[:, :queries]


def naive_attention(query: Query, key: Keys, value: Keys, mask: Mask = None) -> Query:
    """Attention by its formula, with the whole score matrix in memory; the oracle of the other kernels."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    if mask is not None:
        # The smallest finite number instead of -inf: the softmax of a row of -inf is NaN.
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    out = jnp.einsum("bhqk,bkhd->bqhd", weights, value, preferred_element_type=jnp.float32)
    return out.astype(value.dtype)


def chunked_attention(query: Query, key: Keys, value: Keys, mask: Bool[Array, "#b 1 #q k"] | None = None) -> Query:
    """Attention in chunks of queries, for one sample and head at a time: at most chunk × k scores in memory."""
    b, q, h, d = query.shape
    chunks = -(-q // _QUERY_CHUNK)
    chunk = -(-q // chunks)  # chunks of equal size: fewer padding queries than there are chunks
    padded = chunks * chunk

    def in_chunks(x):
        x = jnp.pad(x, ((0, 0), (0, padded - q), *[(0, 0)] * (x.ndim - 2)))
        return x.reshape(b, chunks, chunk, *x.shape[2:])

    queries = in_chunks(query).transpose(0, 3, 1, 2, 4)  # [b h chunks chunk d]
    keys, values = (x.transpose(0, 2, 1, 3) for x in (key, value))  # [b h k d]
    seen = None if mask is None else in_chunks(jnp.broadcast_to(mask[:, 0], (b, q, key.shape[1])))

    @jax.checkpoint  # recomputes scores in the backward pass, so that the bound on memory holds in training too
    def one_chunk(q_chunk, seen_chunk, k_head, v_head):
        scores = jnp.einsum("qd,kd->qk", q_chunk, k_head, preferred_element_type=jnp.float32)
        if seen_chunk is not None:
            scores = jnp.where(seen_chunk, scores, jnp.finfo(jnp.float32).min)
        weights = jnp.exp((scores - scores.max(axis=-1, keepdims=True)) * d**-0.5)
        # Dividing after the product with the values saves one pass over the scores.
        out = jnp.einsum("qk,kd->qd", weights.astype(v_head.dtype), v_head, preferred_element_type=jnp.float32)
        return (out / weights.sum(axis=-1, keepdims=True)).astype(v_head.dtype)

    def one_sample(sample):
        *heads, seen_chunks = sample

        def one_head(head):
            q_chunks, k_head, v_head = head
            return jax.lax.map(lambda of: one_chunk(*of, k_head, v_head), (q_chunks, seen_chunks))

        return jax.lax.map(one_head, tuple(heads))

    # `lax.map` runs its steps one after the other; `vmap` would hold the scores of all of them at once.
    out = jax.lax.map(one_sample, (queries, keys, values, seen))
    return out.reshape(b, h, padded, d).transpose(0, 2, 1, 3)[:, :q]
