"""Files as torch, diffusers and transformers write them: our reading of their names and of what is in them."""

import numpy as np
import pytest

from rewardedit_jax.weights.files import read_weights, write_json

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")


def small_vae():
    diffusers = pytest.importorskip("diffusers")
    return diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)


def small_text_encoder():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**sizes, vocab_size=20, projection_dim=4))


@pytest.mark.parametrize(  # transformers 5 writes safetensors only
    ("make", "form"), [(small_vae, "safetensors"), (small_vae, "bin"), (small_text_encoder, "safetensors")]
)
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("max_shard_size", ["20KB", "1GB"])
def test_their_files_are_read(tmp_path, make, variant, max_shard_size, form):
    model = make()
    model.save_pretrained(
        tmp_path, variant=variant, max_shard_size=max_shard_size, safe_serialization=form == "safetensors"
    )
    assert (len(list(tmp_path.glob(f"*.{form}"))) > 1) == (max_shard_size == "20KB" and make is small_vae)
    read = read_weights(tmp_path)
    expected = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
    assert {name.removeprefix("text_model."): tuple(shape) for name, shape in read.shapes.items()} == {
        name: tuple(tensor.shape) for name, tensor in expected.items()
    }
    for name in read:
        np.testing.assert_array_equal(read[name], expected[name.removeprefix("text_model.")].numpy())


@pytest.mark.parametrize("in_zip", [True, False])
@pytest.mark.parametrize("kind", ["one file", "shards", "a training's", "under a key"])
def test_what_training_with_pytorch_wrote_is_read(tmp_path, kind, in_zip):
    def save(value, name):
        torch.save(value, tmp_path / name, _use_new_zipfile_serialization=in_zip)

    state = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2)}
    state["tied"] = state["b"]
    if kind == "shards":
        shards = {f"pytorch_model-0000{i}-of-00002.bin": names for i, names in [(1, ["a"]), (2, ["b", "tied"])]}
        for shard, names in shards.items():
            save({name: state[name] for name in names}, shard)
        weight_map = {name: shard for shard, names in shards.items() for name in names}
        write_json({"weight_map": weight_map}, tmp_path / "pytorch_model.bin.index.json")
    else:
        save(
            {"model": state} if kind == "under a key" else state,
            "pytorch_model.bin" if kind == "one file" else "model.pth",
        )
    read = read_weights(tmp_path)
    assert set(read) == set(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(read[name], tensor.numpy())
