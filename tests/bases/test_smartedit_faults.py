"""Requests and directories that SmartEdit refuses, or edits all the same, as a caller of `Editor` meets them."""

import json
import shutil

import numpy as np
import pytest
from smartedit_dirs import description, needs_smartedit, write_pipeline
from toy_llama import write_toy_tokenizer

from rewardedit_jax import Editor
from rewardedit_jax.data.clip_tokenizer import TruncationWarning, warn_cut
from rewardedit_jax.weights.engine import WeightMismatch
from rewardedit_jax.weights.files import WeightFileError

pytestmark = needs_smartedit
OVERLONG = "make the whole picture much more blue and then " * 12


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("smartedit"))


@pytest.fixture(scope="module")
def editor(pipeline):
    return Editor.load(pipeline)


@pytest.fixture
def changeable(pipeline, tmp_path):
    return shutil.copytree(pipeline, tmp_path / "changed")


def edit(editor, *instructions):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    asked = {"steps": 1, "resolution": None, "output": "array", "sampler": "ddim", "seed": [0] * len(instructions)}
    return editor.edit(image, list(instructions), **asked)


def one_sentence(error):
    return len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("token", ["<img_3>", "<img_0>", "<im_start>", "<unk>"])
def test_a_token_of_the_conversation_in_an_instruction_is_named(editor, token):
    with pytest.raises(ValueError, match=f"'?{token}") as error:
        edit(editor, "make it blue", f"copy {token} here")
    assert one_sentence(error)


def test_a_newline_does_not_hide_a_token(editor):
    with pytest.raises(ValueError, match="<img_3>"):
        edit(editor, "copy <im\ng_3> here")


def test_a_cut_instruction_is_reported_once_with_what_it_loses(editor):
    image = np.zeros((16, 16, 3), np.uint8)
    shown = f"{OVERLONG[:200]}…$"
    with pytest.warns(TruncationWarning, match=rf"^\d+ tokens more than the model takes were cut from: {shown}"):
        inputs = editor.base.read([image], [OVERLONG], [None], warn_cut)
    length = editor.base.language_tokenizer.length
    assert inputs.ids.shape == (1, length)
    assert inputs.ids[0, -1] != 0  # the row is full, up to the end of the reply
    assert inputs.reply_at.max() < length


@pytest.mark.slow
def test_newlines_and_overlong_instructions_are_edited(editor):
    """With what is left of them: newlines vanish, and as many characters stay as fit."""
    with pytest.warns(TruncationWarning) as warned:
        edited = edit(editor, "make\nit blue", "makeit blue", OVERLONG)
    assert len(warned) == 1
    np.testing.assert_array_equal(edited[0], edited[1])
    assert np.isfinite(edited).all()
    kept = next(OVERLONG[:size] for size in range(len(OVERLONG), 0, -1) if not _is_cut(editor, OVERLONG[:size]))
    again = edit(editor, "make it blue", "makeit blue", kept)
    np.testing.assert_array_equal(again[2], edited[2])
    assert not np.array_equal(again[0], again[1])


def _is_cut(editor, instruction):
    cut = []
    editor.base.read([np.zeros((28, 28, 3), np.uint8)], [instruction], [None], lambda *it: cut.append(it))
    return bool(cut)


def set_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values), "utf-8")


def test_a_pipeline_without_language_tokenizer(changeable):
    shutil.rmtree(changeable / "language_tokenizer")
    with pytest.raises(FileNotFoundError, match=r"language_tokenizer lacks tokenizer\.json") as error:
        Editor.load(changeable)
    assert one_sentence(error)


def test_the_projector_of_llava_1_5(changeable):
    set_config(changeable / "language_model", mm_projector_type="mlp2x_gelu")
    with pytest.raises(WeightFileError, match=r"language_model/config\.json: mm_projector_type='mlp2x_gelu'") as error:
        Editor.load(changeable)
    assert one_sentence(error)


def test_a_tokenizer_of_another_vocabulary(changeable):
    shutil.rmtree(changeable / "language_tokenizer")
    (changeable / "language_tokenizer").mkdir()
    write_toy_tokenizer(changeable / "language_tokenizer")
    told = r"has \d+ tokens, the language model has embeddings of 647.*convert\.py"
    with pytest.raises(ValueError, match=told) as error:
        Editor.load(changeable)
    assert one_sentence(error)


def test_a_tokenizer_whose_added_tokens_are_others(changeable):
    """As many as SmartEdit adds, but not its own."""
    added = {f"<other_{i}>": number for i, number in enumerate(description()["added_tokens"].values())}
    (changeable / "language_tokenizer" / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(ValueError, match=r"lacks <img>, <im_start>, <im_end>, <img_0>.*convert\.py") as error:
        Editor.load(changeable)
    assert one_sentence(error)


@pytest.mark.parametrize("component", ["vision_encoder", "language_model", "qformer", "interaction"])
def test_a_component_that_is_missing_is_named(changeable, component):
    shutil.rmtree(changeable / component)
    with pytest.raises((ValueError, OSError), match=component) as error:
        Editor.load(changeable)
    assert one_sentence(error)


def test_settings_that_do_not_fit_the_weights(changeable):
    set_config(changeable / "qformer", intermediate_size=5)
    with pytest.raises(WeightMismatch, match=r"qformer: (.|\n)*intermediate"):
        Editor.load(changeable)


def test_networks_that_do_not_fit_each_other(changeable):
    set_config(changeable / "qformer", num_queries=5)
    with pytest.raises(ValueError, match=r"qformer.num_queries=5 and text_encoder.max_position_embeddings=7"):
        Editor.load(changeable)
    set_config(changeable / "qformer", num_queries=7)
    set_config(changeable / "interaction", residual_size=9)
    with pytest.raises(ValueError, match=r"interaction.residual_size=9 and unet.block_out_channels.0="):
        Editor.load(changeable)
