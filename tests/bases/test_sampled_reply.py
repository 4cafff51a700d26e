"""Edits with replies of the language model's own: a model that says the usual reply edits as if it were given."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smartedit_dirs import description, needs_smartedit, write_pipeline

from rewardedit_jax import Editor
from rewardedit_jax.bases.sampled_reply import ReplyWarning
from rewardedit_jax.data.clip_tokenizer import warn_cut
from rewardedit_jax.data.llama_tokenizer import END_ID
from rewardedit_jax.weights.files import WeightFileError

pytestmark = needs_smartedit
SEEDS = np.uint32([0, 1])


@pytest.fixture(scope="module")
def random(tmp_path_factory):
    """An editor whose language model says anything but the usual reply."""
    editor = Editor.load(write_pipeline(tmp_path_factory.mktemp("smartedit")))
    return replace(editor, base=replace(editor.base, reply_temperature=0.0))


@pytest.fixture(scope="module")
def instructions():
    return description()["instructions"][:1] * 2


@pytest.fixture(scope="module")
def inputs(random, instructions):
    """Of two edits whose sources differ."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    return random.base.read(list(pictures), instructions, [None] * 2, warn_cut)


@pytest.fixture(scope="module")
def read_sources(random):
    return jax.jit(random.base._read_sources)


@pytest.fixture(scope="module")
def taught(random, inputs, read_sources):
    """The editor with an output layer that gives the usual reply: as many equations as its states have dimensions."""
    hidden = np.asarray(read_sources(random.params, inputs).hidden)
    moved = hidden.shape[1] - inputs.ids.shape[1]
    states, wanted = [], []
    for row, (ids, start) in enumerate(zip(inputs.ids, inputs.reply_from, strict=True)):
        said = ids[start : start + ids[start:].tolist().index(END_ID) + 1]
        states.append(hidden[row, start + moved - 1 :][: len(said)])
        wanted.append(np.eye(random.base.language_tokenizer.vocabulary_size)[said])
    kernel = jnp.asarray(np.linalg.pinv(np.concatenate(states)) @ np.concatenate(wanted), jnp.float32)
    params = {**random.params["language_model"], "lm_head": {"kernel": 1000 * kernel}}
    return replace(random, params={**random.params, "language_model": params})


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_model_that_says_the_usual_reply(taught, inputs, instructions, read_sources, temperature):
    base = replace(taught.base, reply_temperature=temperature)
    replied = base.reply(taught.params, inputs, instructions, SEEDS)
    np.testing.assert_array_equal(replied.reply_at, inputs.reply_at)
    for ids, given in zip(replied.ids, inputs.ids, strict=True):
        end = given.tolist().index(END_ID) + 1
        np.testing.assert_array_equal(ids[:end], given[:end])
    found, expected = read_sources(taught.params, replied), read_sources(taught.params, inputs)
    np.testing.assert_allclose(found.context, expected.context, atol=1e-5)
    np.testing.assert_allclose(found.residual, expected.residual, atol=1e-5)


def test_another_reply_with_the_image_tokens_is_read(taught, inputs, instructions, monkeypatch):
    """The states are those of the reply, wherever its image tokens are."""
    images, start = inputs.ids[0, inputs.reply_at[0]], inputs.reply_from[0]
    said = inputs.ids.copy()
    said[0, start:] = 0
    said[0, start : start + 3 + len(images)] = [9, *images, 9, END_ID]
    monkeypatch.setattr("rewardedit_jax.bases.sampled_reply._sampled_ids", lambda *_: said)
    replied = taught.base.reply(taught.params, inputs, instructions, SEEDS)
    np.testing.assert_array_equal(replied.reply_at[0], start + 1 + np.arange(len(images)))
    np.testing.assert_array_equal(replied.reply_at[1], inputs.reply_at[1])
    np.testing.assert_array_equal(replied.ids, said)


def test_a_reply_without_picture_is_named_and_the_usual_one_taken(random, inputs, instructions):
    with pytest.warns(ReplyWarning) as warned:
        replied = random.base.reply(random.params, inputs, instructions, SEEDS)
    assert repr(instructions[0]) in str(warned[0].message)
    np.testing.assert_array_equal(replied.ids, inputs.ids)
    np.testing.assert_array_equal(replied.reply_at, inputs.reply_at)


def test_the_setting_is_saved_and_tells_editors_apart(random, inputs, instructions, tmp_path):
    random.save(tmp_path)
    again = Editor.load(tmp_path)
    assert again.base.reply_temperature == 0.0
    given = replace(random, base=replace(random.base, reply_temperature=None))
    assert again.fingerprint == random.fingerprint != given.fingerprint
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["reply_temperature"] == 0.0
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"reply_temperature": -1}))
    with pytest.raises(WeightFileError, match=r"model_index\.json.*reply_temperature"):
        Editor.load(tmp_path)
    wrong = replace(random.base, reply_temperature=-1.0)
    with pytest.raises(ValueError, match=r"reply_temperature=-1\.0"):
        wrong.reply(random.params, inputs, instructions, SEEDS)


def test_an_edit_asks_for_a_reply_to_its_own_seed(random, monkeypatch):
    seeds, edited = [], []

    def say_nothing(base, params, inputs, of_edits, temperature):
        seeds.append(of_edits.tolist())
        return np.zeros_like(inputs.ids)

    def edit_nothing(base, params, inputs, *rest):
        edited.append(inputs.asked)
        return np.zeros_like(inputs.source)

    monkeypatch.setattr("rewardedit_jax.bases.sampled_reply._sampled_ids", say_nothing)
    monkeypatch.setattr("rewardedit_jax.editing.editor.edit_batch", edit_nothing)
    given = {"steps": 1, "resolution": None, "sampler": "ddim", "batch_size": 2, "seed": [3, 2**32 - 1, 4]}
    instructions = ["make it blue", "make it red", "make it black"]
    with pytest.warns(ReplyWarning) as warned:
        random.edit(np.zeros((16, 16, 3), np.uint8), instructions, **given)
    assert [sum(repr(text) in str(warning.message) for warning in warned) for text in instructions] == [1, 1, 2]
    assert seeds == [[3, 2**32 - 1], [4, 4]]  # the second batch is filled up
    assert all(inputs.reply_at.all() for inputs in edited)  # of the usual reply
