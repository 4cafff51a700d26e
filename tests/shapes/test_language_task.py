"""The task of the shapes world's language model: its batches, objective, evaluation, and the editor that it leaves."""

import json
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny_models import get_config

from rewardedit_jax import Editor
from rewardedit_jax.data.clip_tokenizer import warn_cut
from rewardedit_jax.params import split_params
from rewardedit_jax.shapes.language_report import language_evaluator, shares_by_kind
from rewardedit_jax.shapes.language_task import LanguageBatch, ShapesLanguageTask
from rewardedit_jax.shapes.visual_questions import KINDS
from rewardedit_jax.training.task import Task


@pytest.fixture(scope="module")
def task():
    return ShapesLanguageTask(get_config("llava", "debug"))


@pytest.fixture(scope="module")
def params(task):
    return task.init(jax.random.key(0))


@pytest.fixture(scope="module")
def batch(task):
    return jax.tree.map(jnp.asarray, next(task.batches(0)))


def test_it_is_a_task(task):
    assert isinstance(task, Task)


def test_a_batch_follows_from_its_step(task):
    steps, later = list(islice(task.batches(0), 3)), next(task.batches(2))
    jax.tree.map(np.testing.assert_array_equal, steps[2], later)
    assert (steps[0].pixels != steps[1].pixels).any()
    assert (task.batch(range(4), "train", seed=1).pixels != steps[0].pixels).any()


def instructions(task, batch):
    """The instructions as the text encoder reads them."""
    ids = np.asarray(batch.instruction_ids)
    return [[task.base.tokenizer.decode(told, skip_special_tokens=True) for told in row] for row in ids]


def test_the_first_prompts_are_the_instructions(task, batch):
    tokenizer, end = task.base.language_tokenizer.backend, '".▁ASSISTANT:'
    rows = zip(np.asarray(batch.rows.ids), np.asarray(batch.rows.segments), instructions(task, batch), strict=True)
    for ids, segments, expected in rows:
        assert len(expected) == task.config.data.instructions == 2
        for number, instruction in enumerate(expected):
            pieces = [tokenizer.id_to_token(int(i)) for i in ids[segments == number + 1]]
            assert "".join(pieces[: pieces.index(end)]) == "".join(f"▁{word}" for word in instruction.split())


def test_zero_parameters_have_the_loss_of_guessing(task, batch):
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), task.abstract_params())
    loss, metrics = jax.jit(task.loss)(zero, batch, jax.random.key(0))
    ids = task.base.language_tokenizer.vocabulary_size
    np.testing.assert_allclose(metrics["answers"], np.log(ids), rtol=1e-5)
    np.testing.assert_allclose(loss, metrics["answers"] + metrics["alignment"], rtol=1e-5)


def test_everything_that_reads_a_request_learns(task, params, batch):
    trained, frozen = split_params(params, task.trainable)
    assert trained.keys() == {"vision_encoder", "language_model", "qformer"}
    gradient = jax.jit(jax.grad(lambda x: task.loss({**frozen, **x}, batch, jax.random.key(0))[0].mean()))(trained)
    still = {path for path, g in flatten_dict(gradient, sep="/").items() if not np.abs(g).max() > 0}
    # The last norm is of the class token alone, which is not read.
    assert still == {f"vision_encoder/post_layernorm/{name}" for name in ("scale", "bias")}


@pytest.fixture(scope="module")
def editor(task, params, tmp_path_factory):
    """The exported editor, loaded."""
    folder = tmp_path_factory.mktemp("exported")
    task.export(params, folder)
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "SmartEditPipeline"
    return Editor.load(folder)


def test_the_exported_editor_reads_what_was_trained(task, params, batch, editor):
    """Its context is the Q-Former's output that training compares with the text encoder's states."""
    texts = [first for first, _ in instructions(task, batch)]
    inputs = editor.base.read(list(np.asarray(batch.pixels)), texts, [None] * len(texts), warn_cut)
    inputs = jax.tree.map(jnp.asarray, inputs)
    images = jnp.asarray(batch.pixels, jnp.float32) / 127.5 - 1
    source = jax.jit(editor.base.encode)(editor.params, images)
    found = jax.jit(editor.base.condition_branches, static_argnums=4)(editor.params, source, inputs, inputs, ("text",))
    np.testing.assert_allclose(found.context, jax.jit(task.answer)(params, batch)[1][:, 0], atol=1e-5)
    assert not np.asarray(found.residual).any()


def test_the_exported_editor_edits(batch, editor):
    edited = editor.edit(np.asarray(batch.pixels[0]), "make it a sketch", steps=1, sampler="ddim", output="array")
    assert edited.shape == (1, 32, 32, 3)


def test_an_answer_is_right_if_all_of_it_is(task):
    batch = task.batch(range(3), "test")
    assert isinstance(batch, LanguageBatch)
    right = np.ones(batch.rows.targets.shape, bool)
    assert set(shares_by_kind(right, batch.rows).values()) == {1.0}
    # One wrong id in the first question of the first row, which is its third prompt.
    kind = KINDS[batch.rows.kinds[0, 2]]
    right[0, np.flatnonzero(batch.rows.segments[0, -right.shape[1] :] == 3)[-1]] = False
    asked = int((batch.rows.kinds == KINDS.index(kind)).sum())
    shares = shares_by_kind(right, batch.rows)
    assert shares.pop(kind.replace(" ", "_")) == pytest.approx(1 - 1 / asked)
    assert set(shares.values()) == {1.0}


def test_evaluation_names_every_kind(task, params):
    found = language_evaluator(task, pictures=8)(params, 0)
    names = [kind.replace(" ", "_") for kind in KINDS]
    assert found.keys() == {*names, *(f"{name}_blind" for name in names), "alignment"}
    assert all(0 <= found[name] <= 1 for name in names)
    assert found["alignment"] < 0.1
