"""Published files of metrics' networks: found by name, complete, matched by exactly one rule."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from rewardedit_jax.models.inception import InceptionV3
from rewardedit_jax.models.lpips import ALEXNET, LPIPS, SQUEEZENET
from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.engine import WeightMismatch, export_tensors
from rewardedit_jax.weights.files import WeightFileError
from rewardedit_jax.weights.perceptual import INCEPTION_TABLE, LPIPS_TABLE
from rewardedit_jax.weights.published import PublishedFile, read_published

HEADS, NETWORK = PublishedFile("heads", "https://a.example"), PublishedFile("network", "https://b.example")
FILES = (HEADS, NETWORK)


def zeros(module):
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_params(module))


@pytest.fixture
def tensors():
    return export_tensors(zeros(LPIPS(SQUEEZENET)), LPIPS_TABLE)


def read(directory):
    return read_published(LPIPS(SQUEEZENET), LPIPS_TABLE, directory, FILES)


def split(tensors, folder, **more):
    heads = {name: x for name, x in tensors.items() if name.startswith("lin")}
    save_file(heads, folder / "heads.safetensors")
    save_file({name: x for name, x in tensors.items() if name not in heads} | more, folder / "network.safetensors")


def test_a_network_and_its_heads_in_two_files(tensors, tmp_path):
    split(tensors, tmp_path, **{"classifier.1.weight": np.zeros((1000, 512, 1, 1), np.float32)})
    assert jax.tree.structure(read(tmp_path)) == jax.tree.structure(abstract_params(LPIPS(SQUEEZENET)))


def test_both_in_one_file(tensors, tmp_path):
    whole = {name if name.startswith("lin") else f"net.{name}": x for name, x in tensors.items()}
    save_file(whole, tmp_path / "heads.safetensors")
    assert jax.tree.structure(read(tmp_path)) == jax.tree.structure(abstract_params(LPIPS(SQUEEZENET)))


@pytest.mark.parametrize("missing", ["heads", "network"])
def test_a_missing_file_is_named_with_its_address(tensors, tmp_path, missing):
    split(tensors, tmp_path)
    (tmp_path / f"{missing}.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=missing) as raised:
        read(tmp_path)
    (file,) = [file for file in FILES if file.stem == missing]
    assert file.where in str(raised.value)
    assert all(other.where not in str(raised.value) for other in FILES if other != file)


def test_files_of_another_network_are_refused(tensors, tmp_path):
    split(tensors, tmp_path)
    with pytest.raises(WeightMismatch, match=r"network\.safetensors"):
        read_published(LPIPS(ALEXNET), LPIPS_TABLE, tmp_path, FILES)


def test_damaged_files_are_named(tensors, tmp_path):
    tensors["lin0.model.1.weight"][:] = np.nan
    split(tensors, tmp_path)
    with pytest.raises(WeightFileError, match=r"heads\.safetensors.*lin0"):
        read(tmp_path)
    (tmp_path / "heads.safetensors").write_bytes(b"cut")
    with pytest.raises(WeightFileError, match=r"heads\.safetensors"):
        read(tmp_path)


def test_inception_has_torchvisions_names(tmp_path):
    module = InceptionV3()
    tensors = export_tensors(zeros(module), INCEPTION_TABLE)
    assert {"Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch3x3dbl_3b.bn.running_var"} <= tensors.keys()
    assert len(tensors) == 5 * 94  # convolutions, each with four tensors of its batch normalisation
    extra = {
        "fc.weight": np.zeros((1008, 2048), np.float32),
        "Mixed_6a.branch3x3.bn.num_batches_tracked": np.int64([1]),
    }
    save_file(tensors | extra, tmp_path / "network.safetensors")
    read_published(module, INCEPTION_TABLE, tmp_path, [NETWORK])
    save_file(tensors | {"Mixed_6a.branch9x9.conv.weight": np.zeros(1, np.float32)}, tmp_path / "network.safetensors")
    with pytest.raises(WeightMismatch, match="branch9x9"):
        read_published(module, INCEPTION_TABLE, tmp_path, [NETWORK])
