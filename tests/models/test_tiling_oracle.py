"""The autoencoder in tiles against diffusers' tiled methods.

Where four tiles meet, diffusers weights them in an order of its own, and its last row and column of tiles, of a quarter
of a tile, take over the border of the image. Everywhere else both are equal.
"""

from functools import partial

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from rewardedit_jax.models.tiling import in_tiles
from rewardedit_jax.models.vae import AutoencoderConfig, AutoencoderKL
from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.engine import import_tensors
from rewardedit_jax.weights.stable_diffusion import vae_table

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.oracle

FACTOR = 2  # pixels of a cell
TILE, STEP = 8, 6  # cells
SIDE = TILE + STEP  # two tiles; diffusers has a third, from cell 12
CONFIG = AutoencoderConfig(block_out_channels=(8, 16), norm_num_groups=4, sample_size=FACTOR * TILE)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """diffusers' network, tiling, and ours of the same random weights."""
    directory = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    oracle = diffusers.AutoencoderKL.from_config(CONFIG.to_hf()).eval()
    oracle.save_pretrained(directory)
    oracle.enable_tiling()
    module = AutoencoderKL(CONFIG)
    tensors = load_file(directory / "diffusion_pytorch_model.safetensors")
    params = import_tensors(tensors, vae_table(CONFIG), abstract_params(module))
    return oracle, partial(module.apply, {"params": params})


def nchw(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def nhwc(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def comparable(cell):
    """Places in images of cells of so many pixels that both compute alike."""
    ramp = (np.arange(SIDE) >= STEP) & (np.arange(SIDE) < TILE)
    last = np.arange(SIDE) >= 2 * STEP
    wanted = ~(ramp[:, None] & ramp | last[:, None] | last)
    return wanted.repeat(cell, axis=0).repeat(cell, axis=1)


@torch.no_grad()
def test_encoding_in_tiles_agrees(networks):
    oracle, apply = networks
    images = np.random.default_rng(0).uniform(-1, 1, (2, FACTOR * SIDE, FACTOR * SIDE, 3)).astype(np.float32)
    expected = oracle.encode(nchw(images)).latent_dist
    encode = jax.jit(lambda x: in_tiles(partial(apply, method="encode"), x, TILE, FACTOR, 1))
    posterior, places = encode(images), comparable(1)
    np.testing.assert_allclose(posterior.mean[:, places], nhwc(expected.mean)[:, places], atol=1e-5)
    np.testing.assert_allclose(posterior.log_var[:, places], nhwc(expected.logvar)[:, places], atol=1e-5)


@torch.no_grad()
def test_decoding_in_tiles_agrees(networks):
    oracle, apply = networks
    latents = np.random.default_rng(0).standard_normal((2, SIDE, SIDE, CONFIG.latent_channels), np.float32)
    expected = nhwc(oracle.decode(nchw(latents)).sample)
    decode = jax.jit(lambda x: in_tiles(partial(apply, method="decode"), x, TILE, 1, FACTOR))
    places = comparable(FACTOR)
    np.testing.assert_allclose(decode(latents)[:, places], expected[:, places], atol=1e-5)
