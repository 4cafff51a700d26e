"""Files of PyTorch, read without it: types, parts of storages, names, and what is refused."""

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from paths import SHARED_FIXTURES
from torch_files import STORAGES, Call, Global, Part, Storage, members_of, save_torch_zip, write_zip

from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.torch_zip import UnsafePickle, read_torch_zip

FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
BUFFER = np.arange(60, dtype=np.float32)


def assert_read(file, expected):
    found = read_torch_zip(file)
    assert list(found) == list(expected)
    assert len(found) == len(expected)
    for name, tensor in expected.items():
        value = found[name]
        assert (value.dtype, value.shape, found.shapes[name]) == (tensor.dtype, tensor.shape, tensor.shape)
        assert value.flags.c_contiguous
        assert value.flags.writeable
        assert value.tobytes() == tensor.tobytes()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("dtype", [*STORAGES, *FLOAT8, "uint16", "uint32", "uint64"])
def test_types(tmp_path, dtype, protocol):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    state = {"a": np.arange(6).reshape(2, 3).astype(dtype), "b": np.ones((), dtype), "c": np.zeros((0, 4), dtype)}
    assert_read(save_torch_zip(state, tmp_path / "m.bin", protocol), state)


def test_parts_of_one_storage(tmp_path):
    grid = BUFFER.reshape(12, 5)
    state = {
        "rows": Part(BUFFER, 10, (3, 5), (5, 1)),
        "tied": Part(BUFFER, 10, (3, 5), (5, 1)),
        "columns": Part(BUFFER, 1, (12, 2), (5, 1)),
        "transposed": Part(BUFFER, 0, (5, 12), (1, 5)),
        "every_second": Part(BUFFER, 1, (30,), (2,)),
        "scalar": Part(BUFFER, 59, (), ()),
        "expanded": Part(BUFFER, 5, (3, 5), (0, 1)),
        "any_stride": Part(BUFFER, 0, (1, 5), (2**62, 1)),
        "empty": Part(BUFFER, 60, (0, 5), (5, 1)),
    }
    expected = {
        "rows": grid[2:5],
        "tied": grid[2:5],
        "columns": grid[:, 1:3],
        "transposed": grid.T,
        "every_second": BUFFER[1::2],
        "scalar": BUFFER[59].reshape(()),
        "expanded": np.broadcast_to(BUFFER[5:10], (3, 5)),
        "any_stride": BUFFER[None, :5],
        "empty": np.zeros((0, 5), np.float32),
    }
    assert_read(save_torch_zip(state, tmp_path / "m.bin"), expected)


def test_a_state_dict_of_a_module(tmp_path):
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (BUFFER.reshape(3, 20), True, OrderedDict()))
    state = OrderedDict(weight=parameter, bias=BUFFER[:3].copy())
    state._metadata = OrderedDict([("", {"version": 1})])
    assert_read(save_torch_zip(state, tmp_path / "m.pth"), {"weight": BUFFER.reshape(3, 20), "bias": BUFFER[:3]})


def test_what_is_no_tensor_is_left_out(tmp_path):
    state = {
        "a": BUFFER,
        "epoch": 3,
        "name": "x",
        "raw": b"ab",
        "no": None,
        "sizes": Call(Global("torch", "Size"), ((1, 2),)),
        "device": Call(Global("torch", "device"), ("cuda", 0)),
        "dtype": Global("torch", "float16"),
    }
    assert_read(save_torch_zip(state, tmp_path / "m.pth"), {"a": BUFFER})


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"state_dict": {"a.weight": BUFFER}, "epoch": 3, "optimizer": {"state": {0: BUFFER}}}, ["a.weight"]),
        ({"model": {"a": BUFFER}, "args": {"lr": 0.1}}, ["a"]),
        ({"model": "ViT", "state_dict": {"a": BUFFER}}, ["a"]),
        ({"model": {"a": BUFFER}, "b": BUFFER}, ["model.a", "b"]),
        ({"student": {"a": BUFFER}, "teacher": {"a": BUFFER}, "epoch": 3}, ["student.a", "teacher.a"]),
        ({"state": {0: {"step": 1, "m": BUFFER}}, "groups": [{"p": (BUFFER,)}]}, ["state.0.m", "groups.0.p.0"]),
    ],
)
def test_names_in_nested_files(tmp_path, value, names):
    assert_read(save_torch_zip(value, tmp_path / "m.pth"), dict.fromkeys(names, BUFFER))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (BUFFER, "a single tensor"),
        ([BUFFER], "a value of type list"),
        ({"epoch": 3}, "no tensors"),
        ({}, "no tensors"),
        ({"a": {"b": BUFFER}, "a.b": BUFFER.copy()}, "two tensors of the name a.b"),
        ({1: BUFFER, "1": BUFFER.copy()}, "two tensors of the name 1"),
    ],
)
def test_what_holds_no_names_is_said(tmp_path, value, found):
    with pytest.raises(WeightFileError, match=rf"m\.pth: .*{found}"):
        read_torch_zip(save_torch_zip(value, tmp_path / "m.pth"))


def test_a_container_that_contains_itself_is_said(tmp_path):
    value = {"a": {"b": BUFFER}}
    value["a"]["c"] = value
    with pytest.raises(WeightFileError, match="more than 32 levels"):
        read_torch_zip(save_torch_zip(value, tmp_path / "m.pth"))


def test_containers_that_multiply_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr("rewardedit_jax.weights.torch_tensors._MOST", 1000)
    value = {"a": BUFFER}
    for _ in range(30):
        value = {"a": value, "b": value}
    with pytest.raises(WeightFileError, match="more than 1,000 values"):
        read_torch_zip(save_torch_zip(value, tmp_path / "m.pth"))


@pytest.mark.parametrize(
    ("module", "name", "told"),
    [
        ("os", "system", "os.system"),
        ("posix", "system", r"posix\.system \(os\.system\)"),
        ("__builtin__", "eval", "builtins.eval"),
        ("torch._utils", "_rebuild_qtensor", "torch._utils._rebuild_qtensor"),
        ("argparse", "Namespace", "argparse.Namespace"),
        ("torch.nn.modules.linear", "Linear", "torch.nn.modules.linear.Linear"),
    ],
)
def test_a_forbidden_global_is_named(tmp_path, module, name, told):
    state = {"a": BUFFER, "model": Call(Global(module, name), ("touch x",))}
    with pytest.raises(UnsafePickle, match=rf"m\.pth: .*{told}.*refused"):
        read_torch_zip(save_torch_zip(state, tmp_path / "m.pth"))


@pytest.mark.parametrize(
    "part",
    [
        Part(BUFFER, 1, (60,), (1,)),
        Part(BUFFER, 60, (1,), (1,)),
        Part(BUFFER, 0, (12, 6), (5, 1)),
        Part(BUFFER, 0, (12, 5), (6, 1)),
        Part(BUFFER, 0, (2,), (2**62,)),
        Part(BUFFER, 2**62, (2,), (1,)),
    ],
)
def test_a_tensor_beyond_its_storage_is_named(tmp_path, part):
    with pytest.raises(WeightFileError, match=r"tensor a .*beyond its storage of 240 bytes"):
        read_torch_zip(save_torch_zip({"a": part}, tmp_path / "m.bin"))


@pytest.mark.parametrize(
    "part",
    [
        Part(BUFFER, -1, (6,), (1,)),
        Part(BUFFER, 59, (6,), (-1,)),
        Part(BUFFER, 0, (-6,), (1,)),
        Part(BUFFER, 0, (6,), (1, 1)),
        Part(BUFFER, 0, (6.0,), (1,)),
        Part(BUFFER, 0, 6, 1),
        Part(BUFFER, None, (6,), (1,)),
        Part(BUFFER, 2**64, (6,), (1,)),
        Part(BUFFER, 0, (1,) * 40, (1,) * 40),
    ],
)
def test_a_tensor_that_cannot_be_is_said(tmp_path, part):
    with pytest.raises(WeightFileError, match="pickle is damaged"):
        read_torch_zip(save_torch_zip({"a": part}, tmp_path / "m.bin"))


@pytest.mark.parametrize("metadata", [{}, {"conj": True}, {"neg": True}])
def test_a_conjugate_is_said(tmp_path, metadata):
    storage = np.arange(3).astype(np.complex64)
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    state = {"a": Call(rebuild, (Storage(storage), 0, (3,), (1,), False, OrderedDict(), metadata))}
    file = save_torch_zip(state, tmp_path / "m.bin")
    if not metadata:
        assert_read(file, {"a": storage})
    else:
        with pytest.raises(WeightFileError, match="resolve_conj"):
            read_torch_zip(file)


def test_a_storage_alone_is_left_out(tmp_path):
    assert_read(save_torch_zip({"a": Storage(BUFFER), "b": BUFFER}, tmp_path / "m.bin"), {"b": BUFFER})


def test_a_tensor_that_grows_is_refused(tmp_path):
    state = {"a": Part(BUFFER, 0, (10**6, 10**6), (0, 0))}
    with pytest.raises(WeightFileError, match=r"tensor a .*larger than the whole file.*expand"):
        read_torch_zip(save_torch_zip(state, tmp_path / "m.bin"))


@pytest.mark.parametrize("size", [0, 236, 239, 244, 480])
def test_a_storage_of_another_size_is_named(tmp_path, size):
    members = {**members_of({"a": BUFFER}), "archive/data/0": bytes(size)}
    with pytest.raises(WeightFileError, match=f"storage 0 of tensor a has {size} bytes: expected 60 elements of 4"):
        read_torch_zip(write_zip(tmp_path / "m.bin", members))


def test_a_missing_storage_is_named(tmp_path):
    members = members_of({"a": BUFFER})
    del members["archive/data/0"]
    with pytest.raises(WeightFileError, match="tensor a is in storage 0, which is missing"):
        read_torch_zip(write_zip(tmp_path / "m.bin", members))


def test_bytes_that_differ_from_the_checksum_are_said(tmp_path):
    file = save_torch_zip({"a": Part(BUFFER, 0, (4,), (1,)), "b": Part(BUFFER, 4, (4,), (1,))}, tmp_path / "m.bin")
    content = bytearray(file.read_bytes())
    content[content.index(BUFFER.tobytes()) + 100] ^= 1  # in neither tensor, but in their storage
    file.write_bytes(content)
    tensors = read_torch_zip(file)
    for name in "ab":
        with pytest.raises(WeightFileError, match=r"m\.bin: storage 0 differs from its checksum"):
            tensors[name]


def test_a_file_without_checksums_is_read(tmp_path):
    """`torch.serialization.set_crc32_options(False)` writes zeros."""
    file = save_torch_zip({"a": BUFFER}, tmp_path / "m.bin")
    with zipfile.ZipFile(file) as archive:
        crcs = {info.CRC.to_bytes(4, "little") for info in archive.infolist()}
    content = file.read_bytes()
    for crc in crcs:
        content = content.replace(crc, bytes(4))
    file.write_bytes(content)
    assert_read(file, {"a": BUFFER})


def test_the_folder_in_the_zip_has_any_name(tmp_path):
    members = {name.replace("archive", "x y"): content for name, content in members_of({"a": BUFFER}).items()}
    assert_read(write_zip(tmp_path / "m.bin", members), {"a": BUFFER})


@pytest.mark.parametrize("order", [None, b"little", b"big", b"", b"\xff" * 100])
def test_the_byte_order_is_little(tmp_path, order):
    members = members_of({"a": BUFFER})
    members["archive/byteorder"] = order
    if order is None:
        del members["archive/byteorder"]
    file = write_zip(tmp_path / "m.bin", members)
    if order in (None, b"little"):
        assert_read(file, {"a": BUFFER})
    else:
        with pytest.raises(WeightFileError, match="byte order"):
            read_torch_zip(file)


def test_torchscript_is_refused(tmp_path):
    members = {**members_of({"a": BUFFER}), "archive/constants.pkl": b"\x80\x02).", "archive/code/x.py": b""}
    with pytest.raises(WeightFileError, match=r"archive of TorchScript.*state_dict"):
        read_torch_zip(write_zip(tmp_path / "m.pt", members))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused(tmp_path, compression):
    members = {**members_of({"a": BUFFER}), "archive/data/0": bytes(10**6)}
    with pytest.raises(WeightFileError, match="compressed"):
        read_torch_zip(write_zip(tmp_path / "m.bin", members, compression))


def test_members_that_share_bytes_are_refused(tmp_path):
    """A small file that declares large members: the directory lists one member a hundred times."""
    file = save_torch_zip({"a": BUFFER}, tmp_path / "m.bin")
    with zipfile.ZipFile(file, "a") as archive:
        first = archive.getinfo("archive/data/0")
        archive.filelist += [first] * 100
        archive._didModify = True
    with pytest.raises(WeightFileError, match="larger than the file"):
        read_torch_zip(file)


def test_two_members_of_one_name_are_refused(tmp_path):
    file = save_torch_zip({"a": BUFFER}, tmp_path / "m.bin")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/data/0", BUFFER.tobytes())
    with pytest.raises(WeightFileError, match="two members of one name"):
        read_torch_zip(file)


@pytest.mark.parametrize("names", [["a/b.txt"], ["data.pkl"], ["a/b/data.pkl"], ["a/data.pkl", "b/data.pkl"]])
def test_another_zip_is_said(tmp_path, names):
    with pytest.raises(WeightFileError, match=r"without one data\.pkl"):
        read_torch_zip(write_zip(tmp_path / "m.bin", dict.fromkeys(names, b"")))


def test_a_long_pickle_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("rewardedit_jax.weights.torch_zip.LONGEST_PICKLE", 100)
    with pytest.raises(WeightFileError, match="expected at most 100"):
        read_torch_zip(save_torch_zip({"a": BUFFER}, tmp_path / "m.bin"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a file of torch.save"),
        (b"anything", "not a file of torch.save"),
        (b"PK\3\4" + bytes(100), "damaged zip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (
            bytes.fromhex("80028a0a6cfc9c46f9206aa850192e80024de9032e"),
            r"before 1\.6.*torch\.save\(torch\.load\('m\.bin'",
        ),
    ],
)
def test_what_is_no_zip_is_said(tmp_path, content, told):
    (tmp_path / "m.bin").write_bytes(content)
    with pytest.raises(WeightFileError, match=rf"cannot read .*m\.bin: .*{told}"):
        read_torch_zip(tmp_path / "m.bin")


def test_truncated_files_are_said(tmp_path):
    content = save_torch_zip({"a": BUFFER}, tmp_path / "m.bin").read_bytes()
    for keep in range(4, len(content), 7):
        (tmp_path / "m.bin").write_bytes(content[:keep])
        with pytest.raises(WeightFileError, match=r"m\.bin: it is a damaged zip, or a part of one"):
            read_torch_zip(tmp_path / "m.bin")


@pytest.mark.parametrize("path", ["m.bin", "", "folder"])
def test_a_missing_file_is_named(tmp_path, path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(WeightFileError, match=f"cannot read {re.escape(str(tmp_path / path))}: "):
        read_torch_zip(tmp_path / path)


@pytest.mark.parametrize("path", [None, 3, "", "a\0b"])
def test_what_is_no_path_is_said(unchecked_annotations, path):
    with pytest.raises(ValueError, match="path="):
        read_torch_zip(path)


def test_a_file_is_read_when_a_tensor_is_asked_for(tmp_path):
    file = save_torch_zip({"a": BUFFER}, tmp_path / "m.bin")
    tensors = read_torch_zip(str(file))
    with pytest.raises(KeyError):
        tensors["b"]
    content = file.read_bytes()
    file.write_bytes(content[:-5] + b"other")  # behind the tensor
    np.testing.assert_array_equal(tensors["a"], BUFFER)
    file.write_bytes(content[: content.index(BUFFER.tobytes()) + 8])
    with pytest.raises(WeightFileError, match="shorter"):
        tensors["a"]
    file.unlink()
    with pytest.raises(WeightFileError, match=r"cannot read .*m\.bin"):
        tensors["a"]


MEASURE = """
import re, sys
from rewardedit_jax.weights.torch_zip import read_torch_zip

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

before = peak()
tensors = read_torch_zip(sys.argv[1])
opened = peak()
for name in tensors:
    value = tensors[name]
    assert value.shape == tensors.shapes[name] and value.flat[-1] == 1
    del value
print(opened - before, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, which Linux has")
def test_peak_memory_is_that_of_the_largest_tensor(tmp_path):
    """Eight tensors of 8 MiB, each of a storage of its own, and eight that share another one."""
    one = np.ones(2 << 20, np.float32)
    shared = np.ones(16 << 20, np.float32)
    state = {str(i): one.copy() for i in range(8)}
    state |= {f"shared.{i}": Part(shared, i << 21, (2 << 10, 1 << 10), (1 << 10, 1)) for i in range(8)}
    file = save_torch_zip(state, tmp_path / "m.bin")
    found = subprocess.run([sys.executable, "-c", MEASURE, file], capture_output=True, text=True, check=True)
    opened, peak = map(float, found.stdout.split())
    assert opened < 2
    assert 8 <= peak < 8 * 1.25 + 2


@pytest.fixture
def pickles():
    folder = SHARED_FIXTURES / "smartedit_a" / "bin"
    if not folder.is_dir():
        pytest.skip(f"third-party data is absent: no folder {folder}")
    return folder


@pytest.mark.parametrize("name", ["plain.bin", "shared.bin"])
def test_files_of_pytorch(pickles, name):
    """Written by PyTorch, where the optimizer left all trained tensors in one buffer of which a file has parts."""
    expected = json.loads((pickles / "expected.json").read_text())[name]["tensors"]
    tensors = read_torch_zip(pickles / name)
    assert set(tensors) == set(expected)
    for key, value in tensors.items():
        found = {"dtype": value.dtype.name, "shape": list(value.shape)}
        found["sha256"] = hashlib.sha256(value.tobytes()).hexdigest()
        assert {field: expected[key][field] for field in found} == found


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("refuse_call.bin", UnsafePickle, "builtins.print"),
        ("refuse_torch.bin", UnsafePickle, "torch.get_num_threads"),
        ("refuse_short.bin", WeightFileError, "120 bytes: expected 50 elements of 4 bytes"),
        ("refuse_legacy.bin", WeightFileError, "before 1.6"),
    ],
)
def test_files_that_are_refused(pickles, capfd, name, error, told):
    with pytest.raises(error, match=rf"{name}: .*{told}"):
        read_torch_zip(pickles / name)
    assert capfd.readouterr().out == ""
