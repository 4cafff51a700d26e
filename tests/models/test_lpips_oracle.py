"""LPIPS against PyTorch with the layers of torchvision, on random weights."""

import jax
import numpy as np
import pytest

from rewardedit_jax.models.lpips import ALEXNET, LPIPS, SQUEEZENET, VGG16
from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.engine import export_tensors, import_tensors
from rewardedit_jax.weights.perceptual import LPIPS_TABLE

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle

from torch_nets import Lpips, randomize  # noqa: E402 -- needs torch

STACKS = {"alex": ALEXNET, "vgg": VGG16, "squeeze": SQUEEZENET}


@pytest.fixture(scope="module", params=STACKS)
def networks(request):
    """(PyTorch's network, ours, our parameters)"""
    oracle, module = randomize(Lpips(request.param)), LPIPS(STACKS[request.param])
    tensors = {name: x.numpy() for name, x in oracle.state_dict().items()}
    return oracle, module, import_tensors(tensors, LPIPS_TABLE, abstract_params(module))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (45, 70), (31, 33)])
def test_distances_are_equal(networks, height, width):
    oracle, module, params = networks
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, 2, height, width, 3)).astype(np.float32)
    found = jax.jit(module.apply)({"params": params}, a, b)
    with torch.no_grad():
        expected = oracle(*(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) for x in (a, b))).numpy()
    assert expected.min() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_pytorch_refuses_what_is_smaller(networks):
    oracle, module, _ = networks
    for side, refused in ((module.stack.smallest, False), (module.stack.smallest - 1, True)):
        x = torch.zeros(1, 3, side, side)
        try:
            taps = oracle.outputs(x)
        except RuntimeError:
            taps = []
        assert (not taps) == refused


def test_export_undoes_import(networks):
    oracle, _, params = networks
    exported, expected = export_tensors(params, LPIPS_TABLE), oracle.state_dict()
    assert exported.keys() == expected.keys()
    assert all((exported[name] == x.numpy()).all() for name, x in expected.items())
