"""The autoencoder against diffusers' PyTorch class, on random weights, in both directions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from rewardedit_jax.models.vae import AutoencoderConfig, AutoencoderKL
from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.engine import export_tensors, import_tensors
from rewardedit_jax.weights.stable_diffusion import vae_table

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.oracle

TWO_LEVELS = AutoencoderConfig(block_out_channels=(8, 16), norm_num_groups=4)
CONFIGS = {
    "two levels": TWO_LEVELS,
    "three levels, three layers": AutoencoderConfig(
        block_out_channels=(8, 16, 16), layers_per_block=3, norm_num_groups=8, latent_channels=3
    ),
    "without attention and quant convolutions": AutoencoderConfig(
        block_out_channels=(8, 8),
        norm_num_groups=2,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ),
    "FLUX": AutoencoderConfig(
        block_out_channels=(8, 16),
        layers_per_block=2,
        norm_num_groups=4,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    ),
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def make_oracle(config, seed=0):
    """diffusers' network with vectors off their start values, so that a wrong scale or bias shows."""
    torch.manual_seed(seed)
    oracle = diffusers.AutoencoderKL.from_config(config.to_hf()).eval()
    with torch.no_grad():
        for name, p in oracle.named_parameters():
            if p.ndim == 1:
                p.copy_((0.0 if name.endswith("bias") else 1.0) + 0.1 * torch.randn_like(p))
    return oracle


def load(directory):
    """Our network and parameters from a directory that diffusers wrote."""
    config = AutoencoderConfig.from_hf(json.loads((directory / "config.json").read_text()))
    module = AutoencoderKL(config)
    wanted = abstract_params(module)
    return module, import_tensors(load_file(directory / WEIGHTS), vae_table(config), wanted)


def call(module, params, x, method="__call__"):
    return jax.jit(lambda params, x: module.apply({"params": params}, x, method=method))(params, x)


def nchw(x):
    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


def nhwc(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def inputs(config):
    """Images of unequal sides and latents that fit them."""
    rng, f = np.random.default_rng(0), config.spatial_factor
    images = rng.uniform(-1, 1, (2, 6 * f, 4 * f, 3)).astype(np.float32)
    return images, rng.standard_normal((2, 6, 4, config.latent_channels), np.float32)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_encode_and_decode_agree(config, tmp_path):
    oracle = make_oracle(config)
    oracle.save_pretrained(tmp_path)
    module, params = load(tmp_path)
    assert module.config == config
    images, latents = inputs(config)
    with torch.no_grad():
        expected, decoded = oracle.encode(nchw(images)).latent_dist, oracle.decode(nchw(latents)).sample
    posterior = call(module, params, images, "encode")
    np.testing.assert_allclose(posterior.mean, nhwc(expected.mean), atol=2e-5)
    np.testing.assert_allclose(posterior.log_var, nhwc(expected.logvar), atol=2e-5)
    np.testing.assert_allclose(call(module, params, latents, "decode"), nhwc(decoded), atol=2e-5)


@pytest.mark.parametrize("config", [CONFIGS["two levels"], CONFIGS["three levels, three layers"]])
def test_gradients_agree(config, tmp_path):
    oracle = make_oracle(config)
    oracle.save_pretrained(tmp_path)
    module, params = load(tmp_path)
    images, noise = map(jnp.asarray, inputs(config))

    @jax.jit
    def gradients(params):
        def loss(params):
            posterior = module.apply({"params": params}, images, method="encode")
            latents = posterior.mean + jnp.exp(posterior.log_var / 2) * noise
            return jnp.square(module.apply({"params": params}, latents, method="decode") - images).mean()

        return jax.value_and_grad(loss)(params)

    posterior = oracle.encode(nchw(images)).latent_dist
    latents = posterior.mean + torch.exp(posterior.logvar / 2) * nchw(noise)
    expected = (oracle.decode(latents).sample - nchw(images)).square().mean()
    expected.backward()

    value, ours = gradients(params)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    theirs = {name: p.grad.numpy() for name, p in oracle.named_parameters()}
    ours = export_tensors(ours, vae_table(config))
    assert ours.keys() == theirs.keys()
    total = np.sqrt(sum(np.square(g).sum() for g in theirs.values()))
    for name, g in theirs.items():
        # The gradient of to_k.bias is 0 (softmax does not see a shift): there only the absolute size counts.
        assert np.linalg.norm(ours[name] - g) <= 1e-4 * np.linalg.norm(g) + 1e-6 * total, name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_diffusers_loads_what_we_write(config, tmp_path):
    make_oracle(config, seed=1).save_pretrained(tmp_path / "theirs")
    module, params = load(tmp_path / "theirs")
    ours = tmp_path / "ours"
    ours.mkdir()
    tensors = export_tensors(params, vae_table(config))
    save_file(tensors, ours / WEIGHTS, metadata={"format": "pt"})
    (ours / "config.json").write_text(json.dumps(config.to_hf()))
    loaded, report = diffusers.AutoencoderKL.from_pretrained(ours, output_loading_info=True)
    assert not any(report.values())
    images, _ = inputs(config)
    with torch.no_grad():
        expected = loaded(nchw(images)).sample
    np.testing.assert_allclose(call(module, params, images), nhwc(expected), atol=2e-5)


@pytest.mark.parametrize("pointwise", [False, True], ids=["[C, C]", "[C, C, 1, 1]"])
def test_older_attention_names_are_read(pointwise, tmp_path):
    make_oracle(TWO_LEVELS).save_pretrained(tmp_path)
    module, params = load(tmp_path)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, x in load_file(tmp_path / WEIGHTS).items():
        for new, old in older.items():
            if f".{new}." in name:
                name = name.replace(f".{new}.", f".{old}.")
                x = x[:, :, None, None] if pointwise and x.ndim == 2 else x
        tensors[name] = x
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in tensors
    back = flatten_dict(import_tensors(tensors, vae_table(TWO_LEVELS), params), sep="/")
    for path, x in flatten_dict(params, sep="/").items():
        np.testing.assert_array_equal(back[path], x, err_msg=path)
    assert module.config == TWO_LEVELS
