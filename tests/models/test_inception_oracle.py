"""Inception for FID against PyTorch with the layers of pytorch-fid, on random weights."""

import jax
import numpy as np
import pytest
from PIL import Image

from rewardedit_jax.evaluation.metrics.fid import INCEPTION_FILE, Inception
from rewardedit_jax.models.inception import InceptionV3
from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.engine import export_tensors, import_tensors
from rewardedit_jax.weights.perceptual import INCEPTION_TABLE

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle

from torch_nets import FidInception, randomize  # noqa: E402 -- needs torch


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """(PyTorch's network, ours from a file as it is published)"""
    oracle, folder = randomize(FidInception()), tmp_path_factory.mktemp("inception")
    torch.save(oracle.state_dict(), folder / f"{INCEPTION_FILE.stem}.pth")
    return oracle, Inception.load(folder)


def photograph(height, width):
    """Soft noise: features of white noise would hide a shifted grid."""
    noise = np.random.default_rng(height).uniform(0, 255, (7, 9, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("height", "width"), [(64, 48), (340, 512)])
def test_features_are_equal(networks, height, width):
    oracle, network = networks
    image = photograph(height, width)
    found = network.embed(network.preprocess(image)[None])
    with torch.no_grad():
        expected = oracle(torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32)[None] / 255)).numpy()
    assert found.shape == (1, 2048)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.std())


def test_export_undoes_import(networks):
    oracle, _ = networks
    tensors = {name: x.numpy() for name, x in oracle.state_dict().items()}
    params = import_tensors(tensors, INCEPTION_TABLE, abstract_params(InceptionV3()))
    exported = export_tensors(params, INCEPTION_TABLE)
    expected = {name: x for name, x in oracle.state_dict().items() if "num_batches" not in name and "fc." not in name}
    assert exported.keys() == expected.keys()
    assert all((exported[name] == x.numpy()).all() for name, x in expected.items())


def test_it_has_the_published_number_of_parameters():
    """21,785,568 that torchvision counts without classifiers, and the mean and variance of 17,216 channels."""
    leaves = jax.tree.leaves(abstract_params(InceptionV3()))
    assert sum(np.prod(x.shape) for x in leaves) == 21_785_568 + 2 * 17_216
