"""Attention: every kernel against the formula in float64, its gradients, its memory, and which one is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax.models import attention as module
from rewardedit_jax.models.attention import attention, chunked_attention, naive_attention


def draw(q, k, d=8, b=2, h=3, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.standard_normal((b, length, h, d)), dtype) for length in (q, k, k))


def formula(query, key, value, mask=None):
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    weights = np.exp(scores) if mask is None else np.exp(scores) * np.asarray(mask)
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), value)


def primitives(f, *args):
    return {e.primitive.name for e in jax.make_jaxpr(f)(*args).eqns}


@pytest.mark.parametrize("kernel", [naive_attention, chunked_attention])
def test_kernels_are_the_formula(kernel):
    q, k, v = draw(12, 20)
    np.testing.assert_allclose(kernel(q, k, v), formula(q, k, v), atol=1e-6)


@pytest.mark.parametrize("queries", [1, 7, 8, 9, 16, 23])  # below, at, above and between multiples of the chunk
@pytest.mark.parametrize("keys", [1, 13])
def test_chunked_equals_naive_at_every_length(queries, keys, monkeypatch):
    monkeypatch.setattr(module, "_QUERY_CHUNK", 8)
    args = draw(queries, keys)
    np.testing.assert_allclose(chunked_attention(*args), naive_attention(*args), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 19, 13), (2, 1, 1, 13), (2, 1, 19, 13)])
def test_chunked_masks_what_naive_masks(shape, monkeypatch):
    monkeypatch.setattr(module, "_QUERY_CHUNK", 8)
    mask = np.random.default_rng(1).random(shape) < 0.5
    mask[..., 0] = True
    args = draw(19, 13)
    np.testing.assert_allclose(chunked_attention(*args, jnp.asarray(mask)), formula(*args, mask), atol=1e-6)


@pytest.mark.parametrize(("queries", "masked"), [(16, False), (19, False), (19, True)])
def test_chunked_gradients_equal_naive_ones(queries, masked, monkeypatch):
    monkeypatch.setattr(module, "_QUERY_CHUNK", 8)
    args, cotangent = draw(queries, 13), draw(queries, 1)[0]
    mask = jnp.tril(jnp.ones((1, 1, queries, 13), bool)) if masked else None
    chunked, naive = (
        jax.jit(jax.grad(lambda *x, f=f: (f(*x, mask) * cotangent).sum(), argnums=(0, 1, 2)))(*args)
        for f in (chunked_attention, naive_attention)
    )
    for ours, expected in zip(chunked, naive, strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_chunked_survives_large_scores():
    q, k, v = draw(4, 6)
    out = chunked_attention(100 * q, 100 * k, v)  # exp of the scores themselves would overflow
    np.testing.assert_allclose(out, naive_attention(100 * q, 100 * k, v), atol=1e-5)


def test_half_precision_scores_and_softmax_are_float32():
    q, k, v = draw(16, 32, d=40, dtype=jnp.bfloat16)
    for kernel in (naive_attention, chunked_attention):
        out = kernel(q, k, v)
        assert out.dtype == jnp.bfloat16
        # Only the weights (2⁻⁹ relative) and the output are rounded (4e-3); scores in bfloat16 would err by 7e-3.
        np.testing.assert_allclose(out.astype(jnp.float32), formula(q, k, v), atol=5e-3)


@pytest.mark.parametrize("shape", [(1, 1, 5, 7), (2, 1, 1, 7), (1, 3, 5, 7), (2, 3, 5, 7)])
def test_masked_keys_are_not_seen(shape):
    q, k, v = draw(5, 7)
    mask = np.random.default_rng(1).random(shape) < 0.5
    mask[..., 0] = True
    np.testing.assert_allclose(attention(q, k, v, jnp.asarray(mask)), formula(q, k, v, mask), atol=1e-6)


def test_no_gradient_reaches_a_masked_key():
    q, k, v = draw(3, 4)
    mask = jnp.array([True, True, False, True])[None, None, None]
    for grad in jax.grad(lambda k, v: (attention(q, k, v, mask) ** 2).sum(), argnums=(0, 1))(k, v):
        assert not grad[:, 2].any()
        assert grad[:, [0, 1, 3]].all()


def compiled_memory(kernel, length):
    """Bytes that a gradient of one sample with four heads needs besides its arguments and results."""
    args = [jax.ShapeDtypeStruct((1, length, 4, 8), jnp.float32)] * 3
    grad = jax.grad(lambda *x: kernel(*x).sum(), argnums=(0, 1, 2))
    return jax.jit(grad).lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_chunked_training_never_holds_the_score_matrix():
    scores = 4 * 2048 * 2048 * 4
    assert compiled_memory(naive_attention, 2048) > scores
    assert compiled_memory(chunked_attention, 2048) < scores / 4


def test_cpu_takes_chunks_where_the_matrix_is_large():
    assert "scan" in primitives(attention, *draw(1024, 1024, b=1, h=1))
    assert "scan" in primitives(attention, *draw(1024, 1024, b=1, h=1), jnp.ones((1, 1, 1, 1024), bool))
    assert "scan" not in primitives(attention, *draw(1024, 77, b=1, h=1))


@pytest.fixture
def cudnn_calls(monkeypatch):
    """Pretends to be on a GPU; records what cuDNN is asked for, after jax's own rules for its arguments."""
    calls, computed = [], jax.nn.dot_product_attention

    def kernel(query, key, value, *, mask, key_value_seq_lengths, implementation):
        assert implementation == "cudnn"
        assert query.shape[-1] % 8 == 0
        assert query.dtype in (jnp.bfloat16, jnp.float16)
        if mask is not None:
            assert mask.shape[2:] == (query.shape[1], key.shape[1])
        assert query.shape[1] % 2 == key.shape[1] % 2 == 0
        calls.append(query.shape)
        lengths = key_value_seq_lengths
        return computed(query, key, value, mask=mask, key_value_seq_lengths=lengths, implementation="xla")

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    return calls


@pytest.mark.parametrize(
    ("query", "key", "width", "dtype", "mask", "taken"),
    [
        (8, 6, 40, jnp.bfloat16, None, True),
        (8, 6, 40, jnp.float16, None, True),
        (8, 6, 40, jnp.float32, None, False),
        (8, 6, 12, jnp.bfloat16, None, False),
        (8, 6, 160, jnp.bfloat16, None, False),
        (8, 77, 40, jnp.bfloat16, None, True),
        (7, 6, 40, jnp.bfloat16, None, True),
        (8, 6, 40, jnp.bfloat16, (2, 1, 1, 6), True),
        (8, 6, 40, jnp.bfloat16, (1, 1, 8, 6), True),
        (77, 77, 64, jnp.bfloat16, (1, 1, 77, 77), False),  # CLIP's texts
    ],
)
def test_gpu_takes_cudnn_where_it_can(query, key, width, dtype, mask, taken, cudnn_calls):
    args = draw(query, key, d=width, dtype=dtype)
    seen = None if mask is None else jnp.tril(jnp.ones(mask, bool))
    out = attention(*args, seen)
    assert bool(cudnn_calls) == taken
    np.testing.assert_allclose(*(jnp.float32(x) for x in (out, naive_attention(*args, seen))), atol=1e-2)


def test_grouped_queries_share_key_heads():
    """Query heads 0, 1 and 2 read key head 0, the others key head 1."""
    q, k, v = draw(5, 7, h=6)
    expected = formula(q, jnp.repeat(k[:, :, :2], 3, axis=2), jnp.repeat(v[:, :, :2], 3, axis=2))
    np.testing.assert_allclose(attention(q, k[:, :, :2], v[:, :, :2]), expected, atol=1e-6)
