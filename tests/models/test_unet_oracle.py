"""The U-Net against diffusers' PyTorch class, on random weights, in both directions."""

import gc
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_unets import SD1, SD2, abstract, call, inputs, random_params, reward_inputs, with_reward

from rewardedit_jax.models.unet import UNet, UNetConfig
from rewardedit_jax.weights.engine import export_tensors, import_tensors
from rewardedit_jax.weights.stable_diffusion import unet_table

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.oracle

CONFIGS = {
    "SD 1, eight channels": SD1,
    "SD 1, four channels, two layers": replace(SD1, in_channels=4, layers_per_block=2),
    "SD 2, four channels, two layers": SD2,
    "SD 2, eight channels, one layer": replace(SD2, in_channels=8, layers_per_block=1),
    "other encoding of time": replace(SD1, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-3),
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def make_oracle(config, seed=0):
    """diffusers' network with vectors off their start values, so that a wrong scale or bias shows."""
    torch.manual_seed(seed)
    oracle = diffusers.UNet2DConditionModel.from_config(config.to_hf()).eval()
    with torch.no_grad():
        for name, p in oracle.named_parameters():
            if p.ndim == 1:
                p.copy_((0.0 if name.endswith("bias") else 1.0) + 0.1 * torch.randn_like(p))
    return oracle


def load(directory):
    """Our configuration and parameters from a directory that diffusers wrote."""
    tensors = load_file(directory / WEIGHTS)
    config = UNetConfig.from_hf(json.loads((directory / "config.json").read_text()))
    return config, jax.tree.map(jnp.asarray, import_tensors(tensors, unet_table(config), abstract(config)))


def nchw(x):
    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


def nhwc(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def run_oracle(oracle, sample, timestep, context):
    timestep, context = (torch.from_numpy(np.array(x)) for x in (timestep, context))
    return oracle(nchw(sample), timestep, context).sample


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_forward_agrees(config, tmp_path):
    oracle = make_oracle(config)
    oracle.save_pretrained(tmp_path)
    loaded, params = load(tmp_path)
    assert loaded == config
    args = inputs(config, h=12, w=4)
    with torch.no_grad():
        expected = nhwc(run_oracle(oracle, *args))
    assert expected.std() > 0.1
    np.testing.assert_allclose(call(config, params, *args), expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("config", [SD1, SD2], ids=["SD 1", "SD 2"])
def test_gradients_agree(config, tmp_path):
    oracle = make_oracle(config)
    oracle.save_pretrained(tmp_path)
    _, params = load(tmp_path)
    args = inputs(config)

    @jax.jit
    def gradients(params):
        return jax.value_and_grad(lambda p: jnp.square(UNet(config).apply({"params": p}, *args)).mean())(params)

    expected = run_oracle(oracle, *args).square().mean()
    expected.backward()
    value, ours = gradients(params)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    theirs = {name: p.grad.numpy() for name, p in oracle.named_parameters()}
    ours = export_tensors(ours, unet_table(config))
    assert ours.keys() == theirs.keys()
    for name, g in theirs.items():
        assert np.linalg.norm(ours[name] - g) <= 1e-4 * np.linalg.norm(g), name


@pytest.mark.parametrize("config", [SD1, SD2], ids=["SD 1", "SD 2"])
def test_diffusers_loads_what_we_write(config, tmp_path):
    params = random_params(config)
    save_file(export_tensors(params, unet_table(config)), tmp_path / WEIGHTS, metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    oracle, report = diffusers.UNet2DConditionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    args = inputs(config)
    with torch.no_grad():
        expected = nhwc(run_oracle(oracle, *args))
    np.testing.assert_allclose(call(config, params, *args), expected, atol=2e-5)


@pytest.mark.parametrize("layout", ["released", "paper"])
def test_diffusers_reads_the_editor_below_a_reward_unet(layout, tmp_path):
    """It tells of the reward modules that it leaves out, and is then the U-Net without a reward."""
    config = with_reward(layout=layout)
    params = random_params(config)
    tensors = export_tensors(params, unet_table(config))
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    oracle, report = diffusers.UNet2DConditionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["unexpected_keys"]) == tensors.keys() - oracle.state_dict().keys()
    assert not report["missing_keys"]
    args = inputs(config)
    with torch.no_grad():
        expected = nhwc(run_oracle(oracle, *args))
    np.testing.assert_allclose(call(config, params, *args), expected, atol=2e-5)
    masked = call(config, params, *args, **reward_inputs(config), reward_keep=jnp.zeros(3))
    np.testing.assert_allclose(masked, expected, atol=2e-5)


@pytest.mark.slow
def test_full_size_sd15():
    """InstructPix2Pix as published, on 32×32 latents; both networks read the same 3.4 GB of weights."""
    config = UNetConfig(in_channels=8, cross_attention_dim=768, sample_size=64)
    with torch.device("meta"):
        oracle = diffusers.UNet2DConditionModel.from_config(config.to_hf()).eval()
    pool = np.random.default_rng(0).standard_normal(2**20 + 7, np.float32)  # drawn once, repeated: 0.9 billion are slow

    def draw(name, shape):
        x = np.resize(np.roll(pool, len(name)), shape)
        if len(shape) == 1:
            return np.float32(not name.endswith("bias")) + np.float32(0.05) * x
        return x / np.float32(np.sqrt(np.prod(shape[1:])))

    weights = {name: draw(name, p.shape) for name, p in oracle.state_dict().items()}
    oracle.load_state_dict({name: torch.from_numpy(x) for name, x in weights.items()}, assign=True)
    sample, timestep, context = inputs(config, 32, 32, batch=1)
    with torch.no_grad():
        expected = nhwc(run_oracle(oracle, sample, timestep, context))
    del oracle
    gc.collect()
    params = import_tensors(weights, unet_table(config), abstract(config))
    del weights
    out = jax.jit(UNet(config).apply)({"params": params}, sample, timestep, context)
    assert 0.1 < expected.std() < 10
    np.testing.assert_allclose(out, expected, atol=2e-4 * expected.std())
