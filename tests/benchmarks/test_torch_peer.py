"""The PyTorch side of the benchmarks: its U-Net with reward modules is ours, and its step and pipeline run."""

import edit_latency
import jax
import networks
import numpy as np
import pytest
import train_step
from timing import take_turns

from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.engine import export_tensors
from rewardedit_jax.weights.stable_diffusion import unet_table

pytest.importorskip("diffusers")
torch_peer = pytest.importorskip("torch_peer")
torch = torch_peer.torch

pytestmark = [pytest.mark.oracle, pytest.mark.slow]


@pytest.fixture(scope="module")
def base():
    return networks.make_base("tiny", "float32")


def test_the_reward_unet_is_ours(base):
    params = networks.draw(abstract_params(base.unet))
    rng, config = np.random.default_rng(0), base.unet.config
    sample, context = rng.standard_normal((2, 8, 8, 8), np.float32), rng.standard_normal((2, 5, 64), np.float32)
    scores, text = np.float32([[5, 0, 2.5], [1, 3, 4]]), rng.standard_normal((2, 64), np.float32)
    times = np.float32([3.0, 950.0])
    ours = jax.jit(base.unet.apply)({"params": params}, sample, times, context, scores, text)
    unet = torch_peer.make_unet(config).eval()
    torch_peer.load_weights(unet, export_tensors(params, unet_table(config)))
    torch_peer.set_reward(unet, scores, text)
    with torch.no_grad():
        nchw = torch.from_numpy(sample.transpose(0, 3, 1, 2).copy())
        theirs = unet(nchw, torch.from_numpy(times), torch.from_numpy(context)).sample
    theirs = theirs.numpy().transpose(0, 2, 3, 1)
    assert theirs.std() > 0.1 * sample.std()
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    torch_peer.set_reward(unet, scores[::-1].copy(), text)
    with torch.no_grad():
        other = unet(nchw, torch.from_numpy(times), torch.from_numpy(context)).sample
    assert np.abs(other.numpy().transpose(0, 2, 3, 1) - theirs).max() > 1e-3  # the scores are read


def test_a_step_trains(base):
    unet = torch_peer.make_unet(base.unet.config)
    step = torch_peer.training_step(unet, networks.cached_examples(base, 1, 8), "float32", compiled=False)
    before = unet.conv_in.proj_deal["proj_in"].weight.detach().clone()
    assert np.isfinite(step())
    assert (unet.conv_in.proj_deal["proj_in"].weight != before).any()


def test_the_pipeline_edits(base):
    setting = edit_latency.SETTINGS["tiny"]
    run, _ = edit_latency.pipeline_edit(torch_peer, base, setting)
    assert run().shape == (1, setting.side, setting.side, 3)


def test_attention_takes_turns():
    forward, gradients = (torch_peer.repeated_attention((1, 8, 8, 2, 8), "float32", g, 2) for g in (False, True))
    assert min(map(min, take_turns({"forward": forward, "gradients": gradients}, 1).values())) > 0


def test_model_flops_are_three_forward_passes(base):
    examples = networks.cached_examples(base, 1, 8)
    once, twice = (train_step.step_flops(base, e) for e in (examples, networks.cached_examples(base, 2, 8)))
    assert twice == 2 * once
