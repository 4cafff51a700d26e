"""Weight files: which one is read, shards, variants, and what is refused."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_files import Call, Global, save_torch_zip

from rewardedit_jax.weights.files import (
    TensorFiles,
    WeightFileError,
    choose_entry_file,
    read_json,
    read_weights,
    shard_pattern,
    write_json,
    write_weights,
)
from rewardedit_jax.weights.torch_zip import UnsafePickle

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"


def tensors(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((3, n + 1)).astype(dtype) for n, name in enumerate("abcd")}


def write_shards(directory, stem=DIFFUSERS, index=f"{DIFFUSERS}.safetensors.index.json", dtype=np.float32):
    """Two shards and their index; the tensors."""
    whole = tensors(dtype)
    parts = {f"{stem}-0000{i + 1}-of-00002.safetensors": "abcd"[2 * i : 2 * i + 2] for i in range(2)}
    for file, names in parts.items():
        save_file({name: whole[name] for name in names}, directory / file)
    write_json({"weight_map": {name: file for file, names in parts.items() for name in names}}, directory / index)
    return whole


def assert_read(directory, expected):
    read = read_weights(directory)
    assert dict(read.shapes) == {name: tensor.shape for name, tensor in expected.items()}
    assert set(read) == set(expected)
    assert len(read) == len(expected)
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)


@pytest.mark.parametrize("stem", [DIFFUSERS, TRANSFORMERS])
@pytest.mark.parametrize("variant", ["", ".fp16", ".bf16"])
def test_one_file(tmp_path, stem, variant):
    dtype = {"": np.float32, ".fp16": np.float16, ".bf16": ml_dtypes.bfloat16}[variant]
    save_file(tensors(dtype), tmp_path / f"{stem}{variant}.safetensors")
    assert_read(tmp_path, tensors(dtype))


@pytest.mark.parametrize("stem", [DIFFUSERS, TRANSFORMERS])
@pytest.mark.parametrize(
    ("variant", "index"),
    [
        ("", "safetensors.index.json"),
        (".fp16", "safetensors.index.fp16.json"),
        (".fp16", "fp16.safetensors.index.json"),
    ],
)
def test_shards(tmp_path, stem, variant, index):
    assert_read(tmp_path, write_shards(tmp_path, stem + variant, f"{stem}.{index}"))


def test_full_precision_is_preferred_and_diffusers_name_first():
    files = [f"{DIFFUSERS}.bf16.safetensors", f"{DIFFUSERS}.fp16.safetensors", f"{TRANSFORMERS}.safetensors", "x.json"]
    assert choose_entry_file(files) == f"{TRANSFORMERS}.safetensors"
    assert choose_entry_file([*files, f"{DIFFUSERS}.safetensors"]) == f"{DIFFUSERS}.safetensors"
    assert choose_entry_file(files[:2]) == f"{DIFFUSERS}.fp16.safetensors"
    assert choose_entry_file(["config.json", f"{DIFFUSERS}.non_ema.bin", f"{DIFFUSERS}.non_ema.safetensors"]) is None


def test_safetensors_are_preferred_to_files_of_pytorch():
    files = [f"{DIFFUSERS}.bin", "pytorch_model.bin", f"{DIFFUSERS}.fp16.bin", "model.pth"]
    assert choose_entry_file(files) == f"{DIFFUSERS}.bin"
    assert choose_entry_file(files[1:]) == "pytorch_model.bin"
    assert choose_entry_file(files[2:]) == f"{DIFFUSERS}.fp16.bin"
    assert choose_entry_file([*files, f"{TRANSFORMERS}.fp16.safetensors"]) == f"{TRANSFORMERS}.fp16.safetensors"
    others = ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "adapter_model.bin"]
    assert choose_entry_file(others) is None


@pytest.mark.parametrize(
    ("index", "pattern"),
    [
        (f"{DIFFUSERS}.safetensors.index.json", f"{DIFFUSERS}-*-of-*.safetensors"),
        (f"{DIFFUSERS}.safetensors.index.fp16.json", f"{DIFFUSERS}.fp16-*-of-*.safetensors"),
        ("model.bf16.safetensors.index.json", "model.bf16-*-of-*.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
        ("pytorch_model.bin.index.fp16.json", "pytorch_model.fp16-*-of-*.bin"),
    ],
)
def test_the_shards_of_an_index_are_known_by_its_name(index, pattern):
    assert choose_entry_file([index]) == index
    assert shard_pattern(index) == pattern


def test_the_weights_of_two_saves_are_reported(tmp_path, caplog):
    save_file(tensors(np.float16), tmp_path / f"{DIFFUSERS}.fp16.safetensors")
    write_shards(tmp_path)
    read_weights(tmp_path)
    assert not caplog.records  # other variants are common
    save_file({"e": np.ones(3)}, tmp_path / f"{DIFFUSERS}.safetensors")
    assert_read(tmp_path, {"e": np.ones(3)})
    assert f"{DIFFUSERS}.safetensors is read, not {DIFFUSERS}.safetensors.index.json" in caplog.text


def test_values_are_read_when_they_are_asked_for(tmp_path):
    write_weights(tensors(), tmp_path, TRANSFORMERS)
    read = read_weights(tmp_path)
    (tmp_path / f"{TRANSFORMERS}.safetensors").unlink()
    assert set(read) == set("abcd")
    with pytest.raises(WeightFileError, match=r"cannot read .*model\.safetensors.*again"):
        read["a"]


def test_what_is_written_is_read_by_torch_libraries(tmp_path):
    write_weights(tensors(), tmp_path / "new" / "unet", DIFFUSERS)
    header = (tmp_path / "new" / "unet" / f"{DIFFUSERS}.safetensors").read_bytes()[8:]
    assert json.JSONDecoder().raw_decode(header.decode("latin-1"))[0]["__metadata__"] == {"format": "pt"}
    assert_read(tmp_path / "new" / "unet", tensors())


def test_who_may_read_other_files_may_read_the_weights(tmp_path):
    (tmp_path / "other").write_text("")
    write_weights(tensors(), tmp_path, TRANSFORMERS)
    file = tmp_path / f"{TRANSFORMERS}.safetensors"
    assert file.stat().st_mode == (tmp_path / "other").stat().st_mode
    file.chmod(0o640)
    write_weights(tensors(), tmp_path, TRANSFORMERS)
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_missing_shard_is_named(tmp_path):
    write_shards(tmp_path)
    (tmp_path / f"{DIFFUSERS}-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightFileError, match=r"index\.json names shards .* not there: .*00002-of-00002\.safetensors"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../x"}}']
)
def test_a_damaged_index_is_named(tmp_path, text):
    (tmp_path / f"{DIFFUSERS}.safetensors.index.json").write_text(text)
    with pytest.raises(WeightFileError, match=r"index\.json"):
        read_weights(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 40, -5])
def test_a_damaged_file_is_named(tmp_path, keep):
    file = tmp_path / f"{TRANSFORMERS}.safetensors"
    save_file(tensors(), file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(WeightFileError, match=r"cannot read .*model\.safetensors: .*again"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"<HTML>" + bytes(100), "web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
        ((10**6).to_bytes(8, "little") + b"{}", "header"),
    ],
)
def test_what_is_there_in_place_of_a_file_is_said(tmp_path, content, found):
    (tmp_path / f"{TRANSFORMERS}.safetensors").write_bytes(content)
    with pytest.raises(WeightFileError, match=rf"model\.safetensors: .*{found}"):
        read_weights(tmp_path)


@pytest.mark.parametrize("type_", ["F8_E4M3", "F8_E5M2", "F8_E8M0"])
def test_float8_is_refused(tmp_path, type_):
    """Such files hold scales beside the weights, without which the values are wrong."""
    header = json.dumps({"a": {"dtype": type_, "shape": [2], "data_offsets": [0, 2]}}).encode()
    file = tmp_path / f"{TRANSFORMERS}.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    with pytest.raises(WeightFileError, match=rf"model\.safetensors: tensor a has type {type_}: expected F64, F32"):
        read_weights(tmp_path)


def test_double_precision_is_read(tmp_path):
    save_file(tensors(np.float64), tmp_path / f"{TRANSFORMERS}.safetensors")
    assert_read(tmp_path, tensors(np.float64))


def test_a_tensor_in_two_shards_is_named(tmp_path):
    write_shards(tmp_path)
    save_file(tensors(), tmp_path / f"{DIFFUSERS}-00002-of-00002.safetensors")
    with pytest.raises(WeightFileError, match=r"tensor a is in .*00001-of-00002.* and in .*00002-of-00002"):
        read_weights(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path):
    shard = tmp_path / f"{DIFFUSERS}-00002-of-00002.safetensors"
    write_shards(tmp_path)
    save_file({"c": tensors()["c"]}, shard)
    with pytest.raises(WeightFileError, match=rf"index\.json .*lack: d \({shard.name}\)"):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", ["unet.gguf", "model.onnx", "diffusion_flax_model.msgpack", "other.safetensors"])
def test_weights_in_another_format_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(WeightFileError, match=rf"no weights in {tmp_path}: .*found {name}"):
        read_weights(tmp_path)


def test_no_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightFileError, match=f"no weights in {tmp_path}: expected {DIFFUSERS}"):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", [f"{DIFFUSERS}.bin", "pytorch_model.fp16.bin", "model.pth", "model.pt", "model.ckpt"])
def test_a_file_of_pytorch(tmp_path, name):
    save_torch_zip(tensors(), tmp_path / name)
    assert_read(tmp_path, tensors())


@pytest.mark.parametrize("index", ["pytorch_model.bin.index.json", f"{DIFFUSERS}.bin.index.fp16.json"])
def test_shards_of_pytorch(tmp_path, index):
    whole, stem = tensors(), shard_pattern(index).removesuffix("-*-of-*.bin")
    parts = {f"{stem}-0000{i + 1}-of-00002.bin": "abcd"[2 * i : 2 * i + 2] for i in range(2)}
    for file, names in parts.items():
        save_torch_zip({name: whole[name] for name in names}, tmp_path / file)
    write_json({"weight_map": {name: file for file, names in parts.items() for name in names}}, tmp_path / index)
    assert_read(tmp_path, whole)


def test_the_other_form_is_not_a_second_save(tmp_path, caplog):
    save_file(tensors(), tmp_path / f"{TRANSFORMERS}.safetensors")
    save_torch_zip({"e": np.ones(3)}, tmp_path / "pytorch_model.bin")
    assert_read(tmp_path, tensors())
    assert not caplog.records


def test_a_pickle_that_calls_is_refused(tmp_path):
    save_torch_zip({"a": Call(Global("os", "system"), ("touch x",))}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsafePickle, match=r"pytorch_model\.bin: its pickle names os\.system"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", [b"", b"anything", b"PK\3\4"])
def test_a_damaged_file_of_pytorch_is_named(tmp_path, content):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(WeightFileError, match=r"cannot read .*model\.pth: .*again"):
        read_weights(tmp_path)


def test_float8_of_pytorch_is_refused(tmp_path):
    save_torch_zip({"a": np.ones(2, ml_dtypes.float8_e4m3fn)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        WeightFileError, match=r"pytorch_model\.bin: tensor a has type float8_e4m3fn: expected F64, F32"
    ):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", ["final_model.pth", "x.pth", "adapter_model.bin"])
def test_a_file_of_pytorch_of_another_name_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(WeightFileError, match=rf"no weights in .*pytorch_model\.bin, model\.pth.*found {name}"):
        read_weights(tmp_path)


def test_a_file_is_a_tensor_once(tmp_path):
    save_file(tensors(), tmp_path / "x.safetensors")
    assert len(TensorFiles([tmp_path / "x.safetensors"])) == 4


@pytest.mark.parametrize(
    ("text", "told"), [(b"{", "not JSON"), (b"\xff\xff", "not UTF-8"), (b"[]", "expected `object`")]
)
def test_json_errors_name_the_file(tmp_path, text, told):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(WeightFileError, match=rf"config\.json.*{told}"):
        read_json(tmp_path / "config.json")
    with pytest.raises(WeightFileError, match=r"other\.json is not there"):
        read_json(tmp_path / "other.json")


def test_json_round_trip(tmp_path):
    write_json({"a": [1, None], "b": "ü"}, tmp_path / "new" / "x.json")
    assert read_json(tmp_path / "new" / "x.json") == {"a": [1, None], "b": "ü"}
