import shutil

import jax
import numpy as np
import pytest
from tiny_editors import latents, picture, tiny_editor

from rewardedit_jax import Editor, load_pretrained
from rewardedit_jax.data.clip_tokenizer import encode_texts, load_clip_tokenizer
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
