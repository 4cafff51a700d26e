"""The autoencoder without PyTorch: shapes, configuration, posterior, partition rules, reference outputs."""

import importlib.util
import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from paths import REFERENCES

from rewardedit_jax.models.vae import PARTITION_RULES, AutoencoderConfig, AutoencoderKL, DownBlock, Posterior
from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.engine import WeightMismatch, export_tensors, import_tensors
from rewardedit_jax.weights.stable_diffusion import vae_table

FIXTURE = REFERENCES / "editor_a"
TINY = AutoencoderConfig(block_out_channels=(8, 16), norm_num_groups=4)
SD15 = AutoencoderConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512)


def abstract(config, **types):
    return abstract_params(AutoencoderKL(config, **types))


def random_params(config, seed=0):
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        x = rng.standard_normal(leaf.shape, np.float32)
        if leaf.ndim == 1:
            return 1 + 0.1 * x if path.endswith("scale") else 0.05 * x
        return x / np.sqrt(np.prod(leaf.shape[:-1]))

    flat = flatten_dict(abstract(config), sep="/")
    return unflatten_dict({path: draw(path, leaf).astype(leaf.dtype) for path, leaf in flat.items()}, sep="/")


def call(module, params, x, method="__call__"):
    return jax.jit(lambda params, x: module.apply({"params": params}, x, method=method))(params, x)


def normal(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.parametrize(("widths", "factor"), [((8,), 1), ((8, 16), 2), ((8, 8, 16), 4), ((8, 8, 8, 8), 8)])
def test_latents_are_coarser_by_the_spatial_factor(widths, factor):
    config = AutoencoderConfig(block_out_channels=widths, norm_num_groups=4, latent_channels=3)
    module, variables = AutoencoderKL(config), {"params": abstract(config)}
    assert config.spatial_factor == factor
    images = jax.ShapeDtypeStruct((2, 8 * factor, 3 * factor, 3), jnp.float32)
    posterior = jax.eval_shape(lambda v, x: module.apply(v, x, method="encode"), variables, images)
    assert posterior.mean.shape == posterior.log_var.shape == (2, 8, 3, 3)
    decoded = jax.eval_shape(lambda v, x: module.apply(v, x, method="decode"), variables, posterior.mean)
    assert decoded.shape == images.shape
    assert jax.eval_shape(module.apply, variables, images).shape == images.shape


def test_sides_that_the_spatial_factor_does_not_divide_are_refused():
    module = AutoencoderKL(TINY)
    with pytest.raises(ValueError, match=r"\(6, 7\).*multiples of 2"):
        module.init(jax.random.key(0), jnp.zeros((1, 6, 7, 3)))


def test_stable_diffusion_has_its_published_size():
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract(SD15))) == 83_653_863


def test_half_precision_computes_in_it_and_keeps_the_posterior_in_float32():
    params, images = random_params(TINY), normal(1, 8, 8, 3)
    full, half = AutoencoderKL(TINY), AutoencoderKL(TINY, dtype=jnp.bfloat16)
    expected = call(full, params, images, "encode")
    posterior = call(half, params, images, "encode")
    decoded = call(half, params, expected.mean, "decode")
    assert posterior.mean.dtype == posterior.log_var.dtype == jnp.float32
    assert decoded.dtype == jnp.bfloat16
    error = jnp.abs(posterior.mean - expected.mean).max()
    assert 0 < error < 0.1
    assert all(p.dtype == jnp.bfloat16 for p in jax.tree.leaves(abstract(TINY, param_dtype=jnp.bfloat16)))


def test_images_of_a_batch_do_not_see_each_other():
    module, params = AutoencoderKL(TINY), random_params(TINY)
    images = normal(3, 8, 8, 3)
    together = call(module, params, images)
    alone = jnp.concatenate([call(module, params, image[None]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_downsampling_pads_after_the_last_row_and_column_only():
    block = DownBlock(features=1, layers=0, downsample=True, groups=1)
    corner = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0)
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    halved = block.apply({"params": {"downsample": {"kernel": corner, "bias": jnp.zeros(1)}}}, image)
    # A kernel that starts at the pixel itself: its first tap picks every second pixel.
    np.testing.assert_array_equal(halved[0, :, :, 0], [[0, 2], [8, 10]])


def test_samples_follow_the_posterior():
    mean, log_var = jnp.array([-1.0, 0.0, 2.0]), jnp.array([-4.0, 0.0, 1.0])
    wide = jnp.ones((4, 50, 50, 3))
    posterior = Posterior(mean * wide, log_var * wide)
    draws = posterior.sample(jax.random.key(0)).reshape(-1, 3)  # 10,000 of each
    std = jnp.exp(log_var / 2)
    np.testing.assert_allclose((draws.mean(0) - mean) / std, 0, atol=0.04)
    np.testing.assert_allclose(draws.std(0) / std, 1, atol=0.03)
    np.testing.assert_array_equal(posterior.mode, posterior.mean)
    again = posterior.sample(jax.random.key(0)).reshape(-1, 3)
    np.testing.assert_array_equal(draws, again)
    assert not jnp.allclose(draws, posterior.sample(jax.random.key(1)).reshape(-1, 3))


def test_log_variance_is_clamped():
    params = jax.tree.map(np.zeros_like, random_params(TINY))
    params["quant_conv"]["bias"][4:] = [-99, -1, 1, 99]
    posterior = call(AutoencoderKL(TINY), params, jnp.zeros((1, 2, 2, 3)), "encode")
    np.testing.assert_array_equal(posterior.log_var[0, 0, 0], [-30, -1, 1, 20])


def test_config_survives_the_round_trip():
    config = AutoencoderConfig(block_out_channels=(8, 16), scaling_factor=0.5, shift_factor=0.1, use_quant_conv=False)
    assert AutoencoderConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config
    assert AutoencoderConfig.from_hf({"_class_name": "AutoencoderKL"}) == AutoencoderConfig()


@pytest.mark.parametrize("shift", [None, 0.25])
def test_scaling_and_shift_of_latents(shift):
    """The network applies neither: encode and decode do not depend on them."""
    config = replace(TINY, scaling_factor=0.5, shift_factor=shift)
    latents = normal(1, 2, 2, 4)
    scaled = config.scale_latents(latents)
    np.testing.assert_array_equal(scaled, (latents - (shift or 0)) * 0.5)
    np.testing.assert_allclose(config.unscale_latents(scaled), latents, atol=1e-6)
    params, images = random_params(TINY), normal(1, 4, 4, 3)
    for method, x in (("encode", images), ("decode", latents)):
        results = (jax.tree.leaves(call(AutoencoderKL(c), params, x, method)) for c in (TINY, config))
        jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("act_fn", "relu"),
        ("latents_mean", [0.0] * 4),
        ("latents_std", [1.0] * 4),
        ("down_block_types", ["DownEncoderBlock2D"]),
        ("up_block_types", ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]),
        ("temporal_layers", 2),
    ],
)
def test_config_of_another_network_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        AutoencoderConfig.from_hf(TINY.to_hf() | {name: value})


@pytest.mark.parametrize("config", [TINY, SD15])
def test_every_parameter_has_a_partition_rule_of_its_rank(config):
    sharded = 0
    for path, leaf in flatten_dict(abstract(config), sep="/").items():
        specs = [spec for pattern, spec in PARTITION_RULES if re.fullmatch(pattern, path)]
        assert len(specs) == 1, path
        assert len(specs[0]) in (0, leaf.ndim), path
        assert "fsdp" not in specs[0] or (specs[0][-1] == "fsdp" and leaf.shape[-1] % 8 == 0), path
        sharded += leaf.size * ("fsdp" in specs[0])
    assert sharded > 0.9 * sum(leaf.size for leaf in jax.tree.leaves(abstract(config)))


@pytest.mark.parametrize("part", ["use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"])
def test_table_is_strict_about_parts_that_a_config_leaves_out(part):
    without = AutoencoderConfig.from_hf(TINY.to_hf() | {part: False})
    params = random_params(without)
    tensors = export_tensors(params, vae_table(without))
    back = import_tensors(tensors, vae_table(without), abstract(without))
    jax.tree.map(np.testing.assert_array_equal, params, back)
    with pytest.raises(WeightMismatch, match="no tensor fills it"):
        import_tensors(tensors, vae_table(TINY), abstract(TINY))
    with pytest.raises(WeightMismatch, match="no rule takes it"):
        import_tensors(export_tensors(random_params(TINY), vae_table(TINY)), vae_table(without), abstract(without))


def test_agrees_with_the_published_model():
    spec = importlib.util.spec_from_file_location("make_editor_dir", FIXTURE / "make_editor_dir.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    network = json.loads((FIXTURE / "editor_a.json").read_text())["networks"]["vae"]
    config = AutoencoderConfig.from_hf(network["config"])
    module = AutoencoderKL(config)
    params = import_tensors(maker.network_tensors(network), vae_table(config), abstract(config))
    with np.load(FIXTURE / "vae.npz") as arrays:
        images, latents, mean, log_var, decoded = (
            arrays[name].transpose(0, 2, 3, 1) for name in ("images", "latents", "mean", "logvar", "decoded")
        )
    posterior = call(module, params, images, "encode")
    np.testing.assert_allclose(posterior.mean, mean, atol=2e-5)
    np.testing.assert_allclose(posterior.log_var, log_var, atol=2e-5)
    np.testing.assert_allclose(call(module, params, latents, "decode"), decoded, atol=3e-5)
