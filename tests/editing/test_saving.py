import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_editors import latents, picture, tiny_editor

from rewardedit_jax import Editor, load_pretrained
from rewardedit_jax.data.clip_tokenizer import encode_texts, load_clip_tokenizer
from rewardedit_jax.weights import files
from rewardedit_jax.weights.files import WeightFileError, read_json


@pytest.mark.parametrize("reward", [{}, {"layout": "released"}, {"layout": "paper", "perspectives": ("following",)}])
def test_round_trip_keeps_every_bit(tmp_path, reward):
    editor = tiny_editor(prediction="v_prediction", **reward)
    editor.save(tmp_path / "model")
    again = Editor.load(tmp_path / "model")
    assert again.base == editor.base
    assert hash(again.base) == hash(editor.base)
    assert again.has_reward == bool(reward)
    jax.tree.map(np.testing.assert_array_equal, again.params, editor.params)
    texts = ["make the red circle blue", "ZEBRA, quartz!", ""]
    np.testing.assert_array_equal(
        encode_texts(again.base.tokenizer, texts).ids, encode_texts(editor.base.tokenizer, texts).ids
    )


def test_what_is_saved_edits_the_same(tmp_path):
    editor = tiny_editor(layout="released")
    editor.save(tmp_path)
    asked = {"steps": 2, "sampler": "ddim", "latents": latents(), "resolution": None, "output": "array"}
    first = editor.edit(picture(), "make the red circle blue", **asked)
    np.testing.assert_array_equal(Editor.load(tmp_path).edit(picture(), "make the red circle blue", **asked), first)


def test_files(tmp_path):
    """Either of the two forms of a tokenizer will do; each network can be had by itself."""
    editor = tiny_editor()
    editor.save(tmp_path)
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    text = ["make the red circle blue"]
    np.testing.assert_array_equal(
        encode_texts(load_clip_tokenizer(tmp_path / "tokenizer"), text).ids,
        encode_texts(editor.base.tokenizer, text).ids,
    )
    module, params = load_pretrained(tmp_path / "vae")
    assert module == editor.base.vae
    jax.tree.map(np.testing.assert_array_equal, params, editor.params["vae"])
    with pytest.raises(WeightFileError, match=r"is a whole pipeline: load it with Editor\.load"):
        load_pretrained(tmp_path)
    index = read_json(tmp_path / "model_index.json")
    assert {name for name, value in index.items() if isinstance(value, list) and value[0]} == {
        "scheduler",
        "text_encoder",
        "tokenizer",
        "unet",
        "vae",
    }


def test_a_network_in_the_wrong_folder_is_named(tmp_path):
    tiny_editor().save(tmp_path)
    shutil.rmtree(tmp_path / "unet")
    shutil.copytree(tmp_path / "vae", tmp_path / "unet")
    with pytest.raises(WeightFileError, match=r"unet holds a AutoencoderKL, not a UNet: .* mixed up"):
        Editor.load(tmp_path)


@pytest.mark.parametrize(("killed_at", "nth"), [("write_weights", 1), ("write_json", 2)])
def test_a_save_that_dies_leaves_the_old_model(tmp_path, monkeypatch, killed_at, nth):
    old, new, calls = tiny_editor(), tiny_editor(layout="paper"), []
    old.save(tmp_path)
    write = getattr(files, killed_at)

    def dying(*arguments):
        calls.append(arguments)
        if len(calls) > nth:
            raise OSError("No space left on device")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(files, killed_at, dying)
        with pytest.raises(OSError, match="No space left"):
            new.save(tmp_path)
    again = Editor.load(tmp_path)
    assert again.base == old.base
    jax.tree.map(np.testing.assert_array_equal, again.params, old.params)
    assert {p.name for p in tmp_path.iterdir()} == {*old.base.components, "model_index.json", "scheduler", "tokenizer"}


def test_weights_that_are_not_finite(tmp_path):
    """Neither saved nor, unless it is asked for, loaded."""
    editor = tiny_editor()
    editor.save(tmp_path)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.weight"][0, 0, 0, 0] = np.nan
    save_file(tensors, file)
    with pytest.raises(WeightFileError, match=rf"{file}: tensor conv_in\.weight has 1 of .* allow_nonfinite=True"):
        Editor.load(tmp_path)
    broken = Editor.load(tmp_path, allow_nonfinite=True)
    assert np.isnan(broken.params["unet"]["conv_in"]["kernel"]).sum() == 1
    with pytest.raises(WeightFileError, match=r"UNet is not saved: tensor conv_in\.weight"):
        broken.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
