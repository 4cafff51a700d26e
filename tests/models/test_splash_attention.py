"""Attention on TPUs: the kernel against the formula, by XLA in place of a TPU, and where it is chosen."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from tpu_step import tpu_devices

from rewardedit_jax.models import attention as choice
from rewardedit_jax.models import splash_attention as module
from rewardedit_jax.models.attention import attention, naive_attention
from rewardedit_jax.models.splash_attention import resident_keys, splash_attention
from rewardedit_jax.sharding import make_mesh


def draw(queries, keys):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.standard_normal((1, n, 2, 40)), jnp.float32) for n in (queries, keys, keys, queries))


def with_gradients(kernel, query, key, value, cotangent):
    out, back = jax.vjp(kernel, query, key, value)
    return out, *back(cotangent)


def test_the_kernel_is_the_formula(monkeypatch):
    """With its gradients, under a mesh, and with fewer keys in vector memory at a time than there are."""
    monkeypatch.setattr(module, "_BLOCK", 128)
    monkeypatch.setattr(module, "_KEY_BYTES", 128 * 128 * 4)
    arrays = draw(128, 256)
    assert resident_keys(256, 40, 4) == 128
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        found = with_gradients(lambda *x: splash_attention(*x, interpret=True), *arrays)
    for ours, exact in zip(found, with_gradients(naive_attention, *arrays), strict=True):
        assert jnp.linalg.norm(ours - exact) < 2e-6 * jnp.linalg.norm(exact)  # measured: 5e-7


@pytest.mark.parametrize(
    ("keys", "width", "itemsize", "resident"),
    [
        (4096, 40, 2, 4096),  # 512 px: all of them
        (9216, 40, 2, 3072),  # 768 px
        (4096, 512, 4, 512),  # the autoencoder
        (640, 40, 2, 640),
    ],
)
def test_keys_fit_vector_memory(keys, width, itemsize, resident):
    assert resident_keys(keys, width, itemsize) == resident


@pytest.mark.parametrize(
    ("queries", "keys", "masked", "taken"),
    [(1024, 1024, False, True), (4096, 77, False, False), (1024, 1024, True, False), (1000, 1000, False, False)],
)
def test_where_it_is_chosen(queries, keys, masked, taken, monkeypatch):
    calls = []
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(choice, "splash_attention", lambda query, *rest: calls.append(query.shape) or query)
    mask = jax.ShapeDtypeStruct((1, 1, 1, keys), bool) if masked else None
    shapes = [jax.ShapeDtypeStruct((1, n, 8, 40), jnp.bfloat16) for n in (queries, keys, keys)]
    assert jax.eval_shape(attention, *shapes, mask).shape == (1, queries, 8, 40)
    assert bool(calls) == taken


def test_each_device_has_its_examples_and_heads():
    """What a mesh does not divide is computed whole on each device."""
    mesh = jax.sharding.AbstractMesh(
        (2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3
    )
    seen = []

    def kernel(query, *rest):
        seen.append(query.shape[:2])
        return query

    with jax.sharding.use_abstract_mesh(mesh):
        for batch, heads in ((8, 8), (6, 8), (8, 3)):
            array = jax.ShapeDtypeStruct((batch, heads, 128, 8), jnp.float32)
            jax.eval_shape(lambda *x: module._on_each_device(kernel, *x), array, array, array)
    assert seen == [(2, 4), (6, 4), (2, 3)]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install jax[tpu]")
@pytest.mark.parametrize("topology", ["v5e:1x1", "v6e:1x1", "v5p:1x1x1"])
@pytest.mark.parametrize(
    ("shape", "dtype", "kernel"),
    [
        ((4, 4096, 8, 40), jnp.bfloat16, with_gradients),
        ((4, 1024, 8, 80), jnp.bfloat16, with_gradients),
        ((8, 4096, 1, 512), jnp.float32, lambda kernel, *arrays: kernel(*arrays[:3])),  # the autoencoder: forward alone
    ],
)
def test_it_fits_the_vector_memory_of(topology, shape, dtype, kernel, monkeypatch):
    """The attention of the 512 px step, compiled to the end for a chip that is not here."""
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # tests run in several processes, none of which holds a TPU
    mesh = make_mesh(devices=tpu_devices(topology))
    arrays = [jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))] * 4
    with jax.set_mesh(mesh):
        traced = jax.jit(lambda *arrays: kernel(splash_attention, *arrays)).trace(*arrays)
        memory = traced.lower(lowering_platforms=("tpu",)).compile().memory_analysis()
    scores = shape[0] * shape[2] * shape[1] ** 2 * 4
    assert memory.temp_size_in_bytes < scores / 2
