"""LoRA: where it applies, what it adds, how it starts, drops and merges."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from tiny_models import TINY_LLAMA, tiny_unet

from rewardedit_jax.models import layers
from rewardedit_jax.models.decoder import PARTITION_RULES, Decoder, causal_mask
from rewardedit_jax.models.layers import Conv, Dense, TypedModule
from rewardedit_jax.models.lora import LoRA, merge_lora
from rewardedit_jax.params import abstract_params
from rewardedit_jax.sharding import partition_rule

LORA = LoRA(rank=3, alpha=6.0, targets=(r".*/self_attn/[qv]_proj", r"layers_1/mlp/down_proj"), dropout=0.5)
X = jax.random.normal(jax.random.key(0), (2, 5, 16))
INPUTS = X, jnp.broadcast_to(jnp.arange(5), (2, 5)), causal_mask(jnp.zeros((2, 5), int))


def decode(lora, params, **given):
    return Decoder(TINY_LLAMA, lora=lora).apply({"params": params}, *INPUTS, **given)


def draw(lora, remat="none"):
    """Parameters whose B is not zero."""
    module = Decoder(TINY_LLAMA, remat, lora=lora)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *INPUTS)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: (rng.standard_normal(x.shape) / x.shape[0] ** 0.5).astype(np.float32), shapes)


@pytest.mark.parametrize("remat", ["none", "all_but_products"])
def test_only_targets_have_it(remat):
    found = {path for path in flatten_dict(draw(LORA, remat), sep="/") if "lora" in path}
    attended = {f"layers_{i}/self_attn/{p}_proj/lora_{x}" for i in (0, 1) for p in "qv" for x in "ab"}
    assert found == attended | {"layers_1/mlp/down_proj/lora_a", "layers_1/mlp/down_proj/lora_b"}


def test_every_parameter_has_a_partition_rule():
    every = LoRA(rank=2, alpha=2.0, targets=(r".*_proj",))
    params = flatten_dict(draw(every), sep="/")
    assert sum("lora" in path for path in params) == 2 * 2 * 7
    specs = {path: partition_rule(PARTITION_RULES, path)[1] for path in params}  # an error if there is none
    for path in (path for path in params if path.endswith("/lora_a")):
        kernel = specs[path.replace("lora_a", "kernel")]
        assert tuple(specs[path]) == (kernel[0], None)
        assert tuple(specs[path.replace("lora_a", "lora_b")]) == (None, kernel[1])


def test_it_adds_the_scaled_product():
    class Network(TypedModule):
        @nn.compact
        def __call__(self, x):
            return Dense(4, **self.types, name="layer")(x)

    lora, rng = LoRA(rank=2, alpha=3.0, targets=("layer",)), np.random.default_rng(2)
    shapes = {"kernel": (16, 4), "bias": (4,), "lora_a": (16, 2), "lora_b": (2, 4)}
    p = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    expected = X @ p["kernel"] + p["bias"] + 1.5 * X @ p["lora_a"] @ p["lora_b"]
    np.testing.assert_allclose(Network(lora=lora).apply({"params": {"layer": p}}, X), expected, atol=2e-5)


def test_merged_computes_what_unmerged_does():
    params = draw(LORA)
    merged = merge_lora(params, LORA)
    plain = {path for path in flatten_dict(params, sep="/") if "lora" not in path}
    assert set(flatten_dict(merged, sep="/")) == plain
    expected = decode(LORA, params)
    np.testing.assert_allclose(decode(None, merged), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    without = {path: x for path, x in flatten_dict(params, sep="/").items() if path in plain}
    untouched = [path for path, x in flatten_dict(merged, sep="/").items() if x is without[path]]
    assert len(untouched) == len(plain) - 5


def test_merging_rounds_once_to_the_type_of_the_kernel():
    params = {"layer": {"kernel": np.full((1, 1), 256), "lora_a": np.ones((1, 1)), "lora_b": np.full((1, 1), 0.75)}}
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    merged = merge_lora(params, LoRA(rank=1, alpha=2.0, targets=("layer",)))["layer"]["kernel"]
    assert merged.dtype == jnp.bfloat16
    assert merged.item() == 258  # 257.5, between 256 and 258


def test_at_the_start_it_changes_nothing():
    module = Decoder(TINY_LLAMA, lora=LORA)
    params = module.init(jax.random.key(0), *INPUTS)["params"]
    plain = {path: x for path, x in flatten_dict(params, sep="/").items() if "lora" not in path}
    a = params["layers_0"]["self_attn"]["q_proj"]["lora_a"]
    assert 0.1 < np.abs(a).max() <= 16**-0.5  # uniform in ±1/sqrt(in)
    np.testing.assert_array_equal(decode(LORA, params), decode(None, unflatten_dict(plain, sep="/")))


def test_dropout_needs_and_follows_its_rng():
    params = draw(LORA)
    drop = partial(decode, LORA, params)
    still, one = drop(), drop(rngs={"lora": jax.random.key(0)})
    np.testing.assert_array_equal(one, drop(rngs={"lora": jax.random.key(0)}))
    np.testing.assert_array_equal(still, drop(rngs={"dropout": jax.random.key(0)}))
    assert jnp.abs(one - still).max() > 1e-3
    assert jnp.abs(one - drop(rngs={"lora": jax.random.key(1)})).max() > 1e-3


def test_half_precision_adds_before_it_rounds():
    """256 + 1 rounds to 256 in bfloat16, and so would 256 + 1 + 1 if each sum were rounded."""
    module = Dense(1, dtype=jnp.bfloat16, lora=LoRA(rank=1, alpha=1.0, targets=("",)))
    one = jnp.ones((1, 1))
    y = module.apply({"params": {"kernel": 256 * one, "bias": one[0], "lora_a": one, "lora_b": one}}, one)
    assert y.dtype == jnp.bfloat16
    assert y.item() == 258


def test_networks_with_layers_of_flax_take_it():
    """Convolutions and norms drop the field; the dense layers of their network have it."""
    lora = LoRA(rank=2, alpha=2.0, targets=(r".*/to_[qv]",))
    found = flatten_dict(abstract_params(tiny_unet(lora=lora)), sep="/")
    assert {path.split("/")[-2] for path in found if "lora" in path} == {"to_q", "to_v"}
    assert isinstance(Conv(4, (1, 1), lora=lora), nn.Conv)
    assert isinstance(layers.LayerNorm(lora=lora), nn.LayerNorm)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"rank": 0}, "rank=0"), ({"dropout": 1.0}, r"dropout=1\.0"), ({"targets": ()}, "targets")],
)
def test_a_setting_out_of_range_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**{"rank": 2, "alpha": 2.0, "targets": ("layer",), **change})
