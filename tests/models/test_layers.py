"""Shared layers: what half precision may round and what it may not, and each formula written out."""

import re
from contextlib import nullcontext

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from rewardedit_jax.models.layers import Conv3x3, Dense, EmbeddingMLP, GroupNorm, LayerNorm, TypedModule, sinusoid
from rewardedit_jax.sharding import AXES


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def apply(module, params, x):
    return module.apply({"params": jax.tree.map(jnp.asarray, params)}, jnp.asarray(x))


@pytest.mark.parametrize(
    ("backend", "axes", "constrained"),
    [
        ("gpu", {}, True),
        ("gpu", {"data": 4}, True),
        ("gpu", {"fsdp": 4}, False),
        ("gpu", {"tensor": 2}, False),
        ("cpu", {}, False),
        ("tpu", {}, False),
    ],
)
def test_the_gradient_of_a_convolution_has_the_layout_of_its_kernel_on_a_gpu(monkeypatch, backend, axes, constrained):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x, kernel = jnp.asarray(normal(2, 6, 6, 3)), jnp.asarray(normal(3, 3, 3, 4, seed=1))
    plain = lambda kernel: jax.lax.conv_general_dilated(  # noqa: E731
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    ours = lambda kernel: Conv3x3(4, use_bias=False).apply({"params": {"kernel": kernel}}, x)  # noqa: E731
    ours, plain = (jax.grad(lambda kernel, f=f: jnp.sin(f(kernel)).sum()) for f in (ours, plain))
    sizes = {name: axes.get(name, 1) for name in AXES}
    mesh = AbstractMesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * 3)
    with jax.sharding.use_abstract_mesh(mesh) if axes else nullcontext():
        assert ("layout_constraint" in str(jax.make_jaxpr(ours)(kernel))) == constrained
    np.testing.assert_array_equal(jax.jit(ours)(kernel), jax.jit(plain)(kernel))


def test_half_precision_dense_rounds_once_after_the_bias():
    # 257 is no bfloat16: were the product rounded before the bias, 256 + 1 would round to 256.
    params = {"kernel": np.ones((257, 1), np.float32), "bias": np.ones(1, np.float32)}
    y = apply(Dense(1, dtype=jnp.bfloat16), params, np.ones((1, 257), np.float32))
    assert y.dtype == jnp.bfloat16
    assert y.item() == 258


def test_half_precision_dense_accumulates_in_float32():
    """Its gradients have factors in half precision too."""
    layer, x = Dense(8, dtype=jnp.bfloat16), jax.random.normal(jax.random.key(0), (6, 4), jnp.bfloat16)
    params = layer.init(jax.random.key(1), x)

    def gradients(module):
        loss = lambda params, x: jnp.square(module.apply(params, x).astype(jnp.float32)).sum()  # noqa: E731
        return jax.grad(loss, argnums=(0, 1))

    program = jax.make_jaxpr(gradients(layer))(params, x)
    assert re.findall(r":(\S+) = dot_general", str(program)) == ["f32[6,8]", "bf16[6,4]", "bf16[4,8]"]
    factors = [v.aval.dtype for e in program.eqns if e.primitive.name == "dot_general" for v in e.invars]
    assert factors == 4 * [jnp.bfloat16]
    half, full = (gradients(module)(params, x) for module in (layer, layer.clone(dtype=jnp.float32)))
    for ours, exact in zip(jax.tree.leaves(half), jax.tree.leaves(full), strict=True):
        assert jnp.linalg.norm(ours - exact) < 0.01 * jnp.linalg.norm(exact)


def test_dense_takes_any_leading_axes_and_needs_no_bias():
    x, kernel = normal(2, 3, 5, 8), normal(8, 4, seed=1)
    np.testing.assert_allclose(apply(Dense(4, use_bias=False), {"kernel": kernel}, x), x @ kernel, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_conv3x3_is_the_sum_over_its_window(stride):
    """Padded by one on every side for either stride, as in PyTorch."""
    x, kernel, bias = normal(2, 6, 8, 3), normal(3, 3, 3, 4, seed=1), normal(4, seed=2)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::stride, ::stride]
    expected = np.einsum("bhwixy,xyio->bhwo", windows, kernel) + bias
    y = apply(Conv3x3(4, strides=stride), {"kernel": kernel, "bias": bias}, x)
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_types_reach_every_submodule():
    class Network(TypedModule):
        @nn.compact
        def __call__(self, x):
            x = Dense(4, **self.types)(LayerNorm(**self.types)(x))
            return GroupNorm(2, **self.types)(Conv3x3(4, **self.types)(x))

    module = Network(dtype=jnp.bfloat16, param_dtype=jnp.float16)
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float16)}


def test_group_norm_is_its_formula():
    x, scale, bias = normal(2, 3, 5, 8), normal(8, seed=1), normal(8, seed=2)
    groups = x.reshape(2, 15, 4, 2)
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(var + 0.1)).reshape(x.shape) * scale + bias
    y = apply(GroupNorm(4, epsilon=0.1), {"scale": scale, "bias": bias}, x)
    np.testing.assert_allclose(y, expected, atol=2e-6)


def test_layer_norm_is_its_formula():
    x, scale, bias = normal(2, 3, 8), normal(8, seed=1), normal(8, seed=2)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.1) * scale + bias
    np.testing.assert_allclose(apply(LayerNorm(0.1), {"scale": scale, "bias": bias}, x), expected, atol=2e-6)


@pytest.mark.parametrize("norm", [GroupNorm(1, dtype=jnp.bfloat16), LayerNorm(1e-6, dtype=jnp.bfloat16)])
def test_half_precision_norms_compute_in_float32(norm):
    # Steps of 1 at 10000 are below bfloat16's: in half precision the spread, and with it the output, would vanish.
    x = 10_000 + np.arange(16, dtype=np.float32)[None]
    y = apply(norm, {"scale": np.ones(16, np.float32), "bias": np.zeros(16, np.float32)}, x)
    assert y.dtype == jnp.bfloat16
    expected = (np.arange(16) - 7.5) / np.arange(16).std()
    np.testing.assert_allclose(y[0].astype(jnp.float32), expected, atol=0.02)


def test_embedding_mlp_is_dense_silu_dense():
    rng = np.random.default_rng(0)
    first, second = ({"kernel": rng.normal(size=(n, 6)), "bias": rng.normal(size=6)} for n in (4, 6))
    x = normal(3, 4)
    hidden = x @ first["kernel"] + first["bias"]
    expected = hidden / (1 + np.exp(-hidden)) @ second["kernel"] + second["bias"]
    params = jax.tree.map(np.float32, {"linear_1": first, "linear_2": second})
    np.testing.assert_allclose(apply(EmbeddingMLP(6), params, x), expected, atol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_sinusoid_in_closed_form(shift):
    x = np.array([[0.0, 0.25], [4.5, 999.0]])
    angles = x[..., None] * 10_000.0 ** (-np.arange(4) / (4 - shift))
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    y = sinusoid(jnp.asarray(x, jnp.float32), 8, downscale_freq_shift=shift)
    np.testing.assert_allclose(y, expected, atol=1e-4)  # float32 angles of 999 are 6e-5 apart
    flipped = sinusoid(jnp.asarray(x, jnp.float32), 8, downscale_freq_shift=shift, flip_sin_to_cos=False)
    np.testing.assert_array_equal(flipped, jnp.roll(y, 4, axis=-1))


def test_sinusoid_takes_whole_and_fractional_numbers_alike():
    np.testing.assert_array_equal(sinusoid(jnp.array([3, 7]), 8), sinusoid(jnp.array([3.0, 7.0]), 8))
    assert not np.allclose(sinusoid(jnp.array(3.5), 8), sinusoid(jnp.array(3.0), 8), atol=0.1)
