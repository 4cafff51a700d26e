"""Safetensors written tensor by tensor: the bytes of the library, shards, and one tensor in memory."""

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rewardedit_jax.weights import files
from rewardedit_jax.weights.files import read_json, read_weights, write_weights
from rewardedit_jax.weights.streaming import TYPES, LazyTensor, write_safetensors


def drawn(dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = {"b.weight": (3, 5), "a": (7,), "ü": (2, 1, 3), "scalar": (), "empty": (0, 4)}
    return {name: np.asarray(rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}


def lazy(tensors):
    return {name: LazyTensor(x.dtype, x.shape, lambda x=x: x) for name, x in tensors.items()}


@pytest.mark.parametrize("dtype", [*TYPES.values()], ids=[*TYPES])
@pytest.mark.parametrize("form", [dict, lazy])
def test_the_bytes_are_those_of_the_library(tmp_path, dtype, form):
    save_file(drawn(dtype), tmp_path / "a.safetensors", metadata={"format": "pt"})
    write_safetensors(tmp_path / "b.safetensors", form(drawn(dtype)))
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_types_side_by_side(tmp_path):
    mixed = {f"{code}.{name}": x for code, type_ in TYPES.items() for name, x in drawn(type_).items()}
    save_file(mixed, tmp_path / "a.safetensors", metadata={"format": "pt"})
    write_safetensors(tmp_path / "b.safetensors", mixed)
    expected, found = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert set(found) == set(expected)
    for name, x in expected.items():
        assert found[name].dtype == x.dtype
        np.testing.assert_array_equal(found[name], x)


def test_views_are_written_as_what_they_show(tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    views = {"transposed": x.T, "part": x[:, 1:3], "repeated": np.broadcast_to(x[0], (5, 4)), "reversed": x[::-1]}
    write_safetensors(tmp_path / "a.safetensors", views)
    for name, found in load_file(tmp_path / "a.safetensors").items():
        np.testing.assert_array_equal(found, views[name])


def test_each_tensor_is_made_once_and_counted(tmp_path):
    made, sizes, tensors = [], [], drawn()
    asked = {
        name: LazyTensor(x.dtype, x.shape, lambda name=name, x=x: made.append(name) or x) for name, x in tensors.items()
    }
    write_safetensors(tmp_path / "a.safetensors", asked, sizes.append)
    assert sorted(made) == sorted(tensors)
    assert sizes == [tensors[name].nbytes for name in made]


@pytest.mark.parametrize("made", [np.ones(3, np.float64), np.ones((3, 1), np.float32), np.ones(3, ml_dtypes.bfloat16)])
def test_a_tensor_that_is_not_as_announced_is_an_error(tmp_path, made):
    tensor = LazyTensor(np.dtype(np.float32), (3,), lambda: made)
    with pytest.raises(TypeError, match=r"name is .*the header has float32\[3\]"):
        write_safetensors(tmp_path / "a.safetensors", {"name": tensor})


def test_shards(tmp_path, monkeypatch):
    """In the order of the tensors, each as large as the limit allows; one that is larger is alone."""
    tensors = {name: np.full(n, n, np.float32) for name, n in zip("abcdef", (10, 15, 1, 30, 2, 2), strict=True)}
    monkeypatch.setattr(files, "_LARGEST_SHARD", 100)
    write_weights(tensors, tmp_path, "model")
    names = [f"model-0000{i}-of-00004.safetensors" for i in range(1, 5)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [*names, "model.safetensors.index.json"]
    assert [set(load_file(tmp_path / name)) for name in names] == [{"a", "b"}, {"c"}, {"d"}, {"e", "f"}]
    index = read_json(tmp_path / "model.safetensors.index.json")
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in tensors.values())
    read = read_weights(tmp_path)
    assert set(read) == set(tensors)
    for name, x in tensors.items():
        np.testing.assert_array_equal(read[name], x)


MEASURE = """
import sys
from pathlib import Path
import numpy as np
from rewardedit_jax.weights.conversion import peak_memory
from rewardedit_jax.weights.files import write_weights
from rewardedit_jax.weights.streaming import LazyTensor

whole = sys.argv[2] == "whole"
shape, float32 = (4 << 20,), np.dtype(np.float32)
tensors = {str(i): np.ones(shape, float32) if whole else LazyTensor(float32, shape, lambda: np.ones(shape, float32))
           for i in range(8)}
before = peak_memory()
write_weights(tensors, Path(sys.argv[1]), "model")
print((peak_memory() - before) / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, which Linux has")
@pytest.mark.parametrize("form", ["whole", "lazy"])
def test_writing_takes_no_second_copy(tmp_path, form):
    """Eight tensors of 16 MiB: none more where they exist, one where they are made."""
    done = subprocess.run([sys.executable, "-c", MEASURE, tmp_path, form], capture_output=True, text=True, check=True)
    assert float(done.stdout) < (2 if form == "whole" else 18)
