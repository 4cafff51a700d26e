"""Files as torch, diffusers and transformers write them: our reading of their names, and the conversion we print."""

import re
import subprocess
import sys

import numpy as np
import pytest

from rewardedit_jax.weights.files import WeightFileError, read_weights

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")


def small_vae():
    diffusers = pytest.importorskip("diffusers")
    return diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)


def small_text_encoder():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**sizes, vocab_size=20, projection_dim=4))


@pytest.mark.parametrize("make", [small_vae, small_text_encoder])
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("max_shard_size", ["20KB", "1GB"])
def test_their_files_are_read(tmp_path, make, variant, max_shard_size):
    model = make()
    model.save_pretrained(tmp_path, variant=variant, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == "20KB" and make is small_vae)
    read = read_weights(tmp_path)
    expected = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
    assert {name.removeprefix("text_model."): tuple(shape) for name, shape in read.shapes.items()} == {
        name: tuple(tensor.shape) for name, tensor in expected.items()
    }
    for name in read:
        np.testing.assert_array_equal(read[name], expected[name.removeprefix("text_model.")].numpy())


@pytest.mark.parametrize("kind", ["one file", "shards", "a training's", "under a key"])
def test_the_printed_conversion_makes_a_readable_file(tmp_path, kind):
    state = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2)}
    state["tied"] = state["b"]  # shared memory, which safetensors refuses
    if kind == "shards":
        torch.save({"a": state["a"]}, tmp_path / "pytorch_model-00001-of-00002.bin")
        torch.save({"b": state["b"], "tied": state["b"]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    elif kind == "one file":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        torch.save({"model": state} if kind == "under a key" else state, tmp_path / "model.pth")
    with pytest.raises(WeightFileError) as error:
        read_weights(tmp_path)
    command = re.search(r'python -c "(.*)"$', str(error.value))[1]
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True)
    read = read_weights(tmp_path)
    assert set(read) == set(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(read[name], tensor.numpy())
