"""Component directories: each network is what it was after writing and reading; errors name the file."""

import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_models import (
    assert_same,
    draw,
    tiny_clip,
    tiny_dino,
    tiny_dinov2,
    tiny_editor,
    tiny_text_encoder,
    tiny_unet,
    tiny_vae,
    tiny_vision,
)
from torch_files import save_torch_zip

from rewardedit_jax.weights.engine import WeightMismatch
from rewardedit_jax.weights.files import TensorFiles, WeightFileError
from rewardedit_jax.weights.pretrained import load_pretrained, open_pretrained, save_pretrained

NETWORKS = {
    "unet": tiny_unet(),
    "released": tiny_unet(layout="released"),
    "paper": tiny_unet(layout="paper"),
    "vae": tiny_vae(),
    "text": tiny_text_encoder(),
    "vision": tiny_vision(),
    "clip": tiny_clip(),
    "dino": tiny_dino(),
    "dinov2": tiny_dinov2(),
}


def save(module, directory, **config):
    """The parameters written; `config` changes fields of config.json."""
    params = draw(module)
    save_pretrained(module, params, directory)
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return params


def rename(directory, change):
    """Renames the tensors of a transformers directory."""
    file = directory / "model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(file).items()}, file)


@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip(tmp_path, name):
    params = save(NETWORKS[name], tmp_path)
    module, loaded = load_pretrained(tmp_path)
    assert module == NETWORKS[name]
    assert_same(loaded, params)
    save_pretrained(module, loaded, tmp_path / "again")
    for file in tmp_path.glob("*.*"):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes() or file.name == "config.json"
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == json.loads(
        (tmp_path / "config.json").read_text()
    )


def to_torch(directory):
    """Replaces safetensors by the file of PyTorch that older versions of the libraries wrote."""
    (file,) = directory.glob("*.safetensors")
    name = "pytorch_model.bin" if file.stem == "model" else f"{file.stem}.bin"
    save_torch_zip(load_file(file), directory / name)
    file.unlink()
    return directory / name


@pytest.mark.parametrize("name", NETWORKS)
def test_files_of_pytorch(tmp_path, name):
    params = save(NETWORKS[name], tmp_path)
    to_torch(tmp_path)
    module, loaded = load_pretrained(tmp_path)
    assert module == NETWORKS[name]
    assert_same(loaded, params)


def test_a_damaged_storage_of_a_file_of_pytorch_is_named(tmp_path):
    save(NETWORKS["text"], tmp_path)
    file = to_torch(tmp_path)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightFileError, match=r"pytorch_model\.bin: storage \d+ differs from its checksum"):
        load_pretrained(tmp_path)


def test_file_names_are_those_of_the_torch_libraries(tmp_path):
    for name in ("unet", "vae", "text", "vision"):
        save(NETWORKS[name], tmp_path / name)
        stem = "diffusion_pytorch_model" if name in ("unet", "vae") else "model"
        assert {p.name for p in (tmp_path / name).iterdir()} == {"config.json", f"{stem}.safetensors"}


@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
def test_types(tmp_path, param_dtype):
    params = save(NETWORKS["unet"], tmp_path)
    module, loaded = load_pretrained(tmp_path, dtype=jnp.bfloat16, param_dtype=param_dtype)
    assert module.dtype == jnp.bfloat16
    assert_same(loaded, jax.tree.map(lambda x: x.astype(param_dtype), params))
    save_pretrained(module, loaded, tmp_path / "again")
    assert_same(load_pretrained(tmp_path / "again", param_dtype=param_dtype)[1], loaded)


def test_half_precision_files_become_float32(tmp_path):
    params = save(NETWORKS["text"], tmp_path)
    half = {name: tensor.astype(np.float16) for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(half, tmp_path / "model.fp16.safetensors")
    (tmp_path / "model.safetensors").unlink()
    assert_same(load_pretrained(tmp_path)[1], jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), params))


def test_text_towers_with_and_without_prefix(tmp_path):
    params = save(NETWORKS["text"], tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert all(name.startswith("text_model.") for name in names)
    rename(tmp_path, lambda name: name.removeprefix("text_model."))
    assert_same(load_pretrained(tmp_path)[1], params)


def test_a_text_tower_with_projection_serves(tmp_path):
    params = save(NETWORKS["text"], tmp_path, architectures=["CLIPTextModelWithProjection"])
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"text_projection.weight": np.ones((4, 12), np.float32)}, file)
    assert_same(load_pretrained(tmp_path)[1], params)


def test_no_directory(tmp_path):
    with pytest.raises(WeightFileError, match=r"there is no directory .*unet"):
        load_pretrained(tmp_path / "unet")


def test_a_whole_pipeline(tmp_path):
    tiny_editor().save(tmp_path)
    with pytest.raises(WeightFileError, match=r"whole pipeline.*Editor\.load.*text_encoder, unet, vae"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    "config", [{"_class_name": "UNet3D"}, {"_class_name": None, "architectures": ["T5"]}, {"_class_name": None}]
)
def test_an_unknown_network(tmp_path, config):
    save(NETWORKS["vae"], tmp_path, **config)
    name = config["_class_name"] or config.get("architectures", ["nothing"])[0]
    with pytest.raises(WeightFileError, match=rf"config\.json describes {name}; known networks: UNet2DConditionModel,"):
        load_pretrained(tmp_path)


def test_a_missing_config(tmp_path):
    save(NETWORKS["vae"], tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightFileError, match=r"config\.json is not there"):
        load_pretrained(tmp_path)


def test_a_damaged_config(tmp_path):
    save(NETWORKS["vae"], tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "Autoenc')
    with pytest.raises(WeightFileError, match=r"config\.json: line 1: not JSON"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "setting"),
    [("unet", {"act_fn": "mish"}), ("vae", {"act_fn": "mish"}), ("text", {"hidden_act": "mish"})],
)
def test_a_setting_that_is_not_supported(tmp_path, name, setting):
    save(NETWORKS[name], tmp_path, **setting)
    with pytest.raises(WeightFileError, match=rf"config\.json: .*{next(iter(setting))}.*mish"):
        load_pretrained(tmp_path)


def test_weights_of_another_size(tmp_path):
    save(NETWORKS["vae"], tmp_path, latent_channels=2)
    with pytest.raises(
        WeightMismatch, match=rf"(?s){tmp_path}: weights .*parameter quant_conv/kernel: .* the network wants"
    ):
        load_pretrained(tmp_path)


def test_a_network_is_in_memory_once_while_it_is_read(tmp_path):
    module = tiny_text_encoder()
    wide = module.clone(
        config=type(module.config)(**{**module.config.__dict__, "hidden_size": 256, "num_hidden_layers": 4})
    )
    params = save(wide, tmp_path)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    del params
    load_pretrained(tmp_path)  # traced once, so that below only arrays are counted
    tracemalloc.start()
    try:
        _, loaded = load_pretrained(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(loaded)) == size
    assert peak < size + 3 * largest + 2e6


def test_only_the_wanted_parameters_are_read(tmp_path, monkeypatch):
    module = tiny_vae()
    params = draw(module)
    save_pretrained(module, params, tmp_path)
    read = []
    monkeypatch.setattr(
        TensorFiles, "__getitem__", lambda self, name, get=TensorFiles.__getitem__: read.append(name) or get(self, name)
    )
    found = open_pretrained(tmp_path).read(lambda path: path.startswith("encoder/conv_in/"))
    assert_same(found, {"encoder": {"conv_in": params["encoder"]["conv_in"]}})
    # The type checker that tests run under looks at the first tensor of a mapping.
    assert set(read) - {"decoder.conv_in.bias"} == {"encoder.conv_in.bias", "encoder.conv_in.weight"}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, jnp.bfloat16])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(tmp_path, dtype, value):
    save(NETWORKS["vae"], tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = {name: tensor.astype(dtype) for name, tensor in load_file(file).items()}
    tensors["decoder.conv_in.weight"][1, 2, 0, 1] = value
    save_file(tensors, file)
    with pytest.raises(
        WeightFileError, match=rf"{file}: tensor decoder\.conv_in\.weight has 1 of 288 .*allow_nonfinite"
    ):
        load_pretrained(tmp_path)
    _, loaded = load_pretrained(tmp_path, allow_nonfinite=True)
    np.testing.assert_array_equal(loaded["decoder"]["conv_in"]["kernel"][0, 1, 2, 1], np.float32(value))
    # What is not read is not in the way.
    assert open_pretrained(tmp_path).read(lambda path: path.startswith("encoder/"))


def test_weights_that_overflow_the_type_that_is_asked_for_are_named(tmp_path):
    params = save(NETWORKS["vae"], tmp_path)
    params["encoder"]["conv_in"]["bias"][0] = 1e5
    save_pretrained(NETWORKS["vae"], params, tmp_path)
    load_pretrained(tmp_path)
    named = r"encoder\.conv_in\.bias has 1 of .* in float16"
    with np.errstate(over="ignore"), pytest.raises(WeightFileError, match=named):
        load_pretrained(tmp_path, param_dtype=jnp.float16)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_, np.complex64])
def test_weights_of_other_types_are_named(tmp_path, dtype):
    """As bitsandbytes writes them in 4 bits: packed, of another shape, with further tensors."""
    save(NETWORKS["text"], tmp_path)
    file, name = tmp_path / "model.safetensors", "text_model.encoder.layers.0.mlp.fc1.weight"
    packed = {name: np.zeros((96, 1), dtype), f"{name}.absmax": np.ones(3, np.uint8)}
    save_file(load_file(file) | packed, file)
    with pytest.raises(WeightFileError, match=rf"{file}: tensor {name} has type {np.dtype(dtype)}.* quantised"):
        load_pretrained(tmp_path)


def test_buffers_of_any_type_are_ignored(tmp_path):
    params = save(NETWORKS["text"], tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"text_model.embeddings.position_ids": np.arange(32)[None]}, file)
    assert_same(load_pretrained(tmp_path)[1], params)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("directory", {"directory": None}),
        ("dtype", {"directory": ".", "dtype": "fp16"}),
        ("param_dtype", {"directory": ".", "param_dtype": None}),
    ],
)
def test_wrong_types_are_named(name, arguments):
    with pytest.raises(ValueError, match=rf"^{name}="):
        load_pretrained(**arguments)
