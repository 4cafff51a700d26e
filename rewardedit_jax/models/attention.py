"""Scaled dot-product attention: one signature, the kernel chosen by backend and size.

Axes: b batch, q query length, k key length, h heads, g key heads (a divisor of h), d head width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# On a CPU, scores of this many queries at a time stay in the cache.
_QUERY_CHUNK = 512
# Below this many scores per head the whole matrix is cheaper than a loop over chunks.
_SMALL = 512 * 1024


def attention(
    query: Float[Array, "b q h d"],
    key: Float[Array, "b k g d"],
    value: Float[Array, "b k g d"],
    mask: Bool[Array, "#b #h #q k"] | None = None,
) -> Float[Array, "b q h d"]:
    """softmax(query keyᵀ / sqrt(d)) value, with the softmax in float32. `mask` is True where a key may be seen.

    Grouped queries: each key head serves h / g query heads that lie side by side.
    """
    backend = jax.default_backend()
    if backend == "gpu" and _cudnn_takes(query, key, mask):
        if mask is not None:  # cuDNN broadcasts it over samples and heads, but not over queries
            mask = jnp.broadcast_to(mask, (*mask.shape[:2], query.shape[1], key.shape[1]))
        return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")
    key, value = (jnp.repeat(x, query.shape[2] // key.shape[2], axis=2) for x in (key, value))
    same_for_heads = mask is None or mask.shape[1] == 1
    if backend == "cpu" and same_for_heads and query.shape[1] * key.shape[1] > _SMALL:
        return chunked_attention(query, key, value, mask)
    return naive_attention(query, key, value, mask)


def _cudnn_takes(
    query: Float[Array, "b q h d"],
    key: Float[Array, "b k g d"],
    mask: Bool[Array, "#b #h #q k"] | None,
) -> bool:
    """cuDNN's fused kernel wants half precision and a head width that is a multiple of 8, at most 128.

    Under a mask its gradient wants even lengths too; that a gradient will be taken is not known here.
    """
    width, even = query.shape[-1], query.shape[1] % 2 == 0 and key.shape[1] % 2 == 0
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    return half and width % 8 == 0 and width <= 128 and (mask is None or even)


def naive_attention(
    query: Float[Array, "b q h d"],
    key: Float[Array, "b k h d"],
    value: Float[Array, "b k h d"],
    mask: Bool[Array, "#b #h #q k"] | None = None,
) -> Float[Array, "b q h d"]:
    """The formula as written, whole score matrix in memory; the oracle of the other kernels."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    out = jnp.einsum("bhqk,bkhd->bqhd", weights, value, preferred_element_type=jnp.float32)
    return out.astype(value.dtype)


def chunked_attention(
    query: Float[Array, "b q h d"],
    key: Float[Array, "b k h d"],
    value: Float[Array, "b k h d"],
    mask: Bool[Array, "#b 1 #q k"] | None = None,
) -> Float[Array, "b q h d"]:
    """Attention one (sample, head) at a time, in chunks of queries: never more than chunk × k scores in memory.

    The division comes after the product with the values: one pass less over the scores. Scores are recomputed
    on the way back, so that training keeps the same bound.
    """
    b, q, h, d = query.shape
    chunks = -(-q // _QUERY_CHUNK)
    chunk = -(-q // chunks)  # all of one size, so that padding adds fewer queries than there are chunks
    padded = chunks * chunk

    def in_chunks(x):
        x = jnp.pad(x, ((0, 0), (0, padded - q), *[(0, 0)] * (x.ndim - 2)))
        return x.reshape(b, chunks, chunk, *x.shape[2:])

    queries = in_chunks(query).transpose(0, 3, 1, 2, 4)
    keys, values = (x.transpose(0, 2, 1, 3) for x in (key, value))
    seen = None if mask is None else in_chunks(jnp.broadcast_to(mask[:, 0], (b, q, key.shape[1])))

    @jax.checkpoint
    def one_chunk(q_chunk, seen_chunk, k_head, v_head):
        scores = jnp.einsum("qd,kd->qk", q_chunk, k_head, preferred_element_type=jnp.float32)
        if seen_chunk is not None:
            scores = jnp.where(seen_chunk, scores, jnp.finfo(jnp.float32).min)
        weights = jnp.exp((scores - scores.max(axis=-1, keepdims=True)) * d**-0.5)
        out = jnp.einsum("qk,kd->qd", weights.astype(v_head.dtype), v_head, preferred_element_type=jnp.float32)
        return (out / weights.sum(axis=-1, keepdims=True)).astype(v_head.dtype)

    def one_sample(sample):
        *heads, seen_chunks = sample

        def one_head(head):
            q_chunks, k_head, v_head = head
            return jax.lax.map(lambda of: one_chunk(*of, k_head, v_head), (q_chunks, seen_chunks))

        return jax.lax.map(one_head, tuple(heads))

    out = jax.lax.map(one_sample, (queries, keys, values, seen))
    return out.reshape(b, h, padded, d).transpose(0, 2, 1, 3)[:, :q]
