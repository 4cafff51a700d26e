"""The text encoder of the shapes world learns the words of instructions and feedback."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import draw, get_config, tiny_editor, tiny_text_encoder

from rewardedit_jax.data.clip_tokenizer import encode_texts, warn_cut
from rewardedit_jax.reward import Reward
from rewardedit_jax.shapes.tasks import ShapesEditingTask
from rewardedit_jax.shapes.tokenizers import shapes_tokenizer
from rewardedit_jax.shapes.words import words_loss

TEXTS = ["make it red", "the picture is blurred; None; None", ""]


@pytest.fixture(scope="module")
def ids():
    return jnp.asarray(encode_texts(shapes_tokenizer(), TEXTS).ids)


def test_it_is_the_mean_surprise_at_the_words(ids):
    encoder = tiny_text_encoder()
    params = draw(encoder)
    pooled = np.asarray(encoder.apply({"params": params}, ids).pooled, np.float64)
    logits = pooled @ np.asarray(params["embeddings"]["token_embedding"]["embedding"], np.float64).T
    surprise = np.log(np.exp(logits).sum(1, keepdims=True)) - logits
    tokenizer = shapes_tokenizer()
    words = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    expected = [surprise[row, tokens].mean() if tokens else 0 for row, tokens in enumerate(words)]
    np.testing.assert_allclose(words_loss(encoder, params, ids), expected, rtol=1e-4)


def test_the_rows_of_the_words_learn(ids):
    encoder = tiny_text_encoder()
    gradient = jax.grad(lambda params: words_loss(encoder, params, ids).sum())(draw(encoder))
    rows = jnp.abs(gradient["embeddings"]["token_embedding"]["embedding"]).sum(1)
    assert rows[np.unique(ids)].min() > 0


@pytest.fixture
def config(tmp_path):
    """Of a task with a tiny editor, without reward modules: these would be the only ones to read the feedback."""
    tiny_editor().save(tmp_path / "start")
    config = get_config("reward_ip2p", "debug")
    config.init, config.data.root, config.reward.layout = str(tmp_path / "start"), str(tmp_path), ""
    config.words_weight = 0.5
    return config


def test_the_task_adds_the_words_of_both_texts(config):
    losses = {}
    for config.words_weight in (0.0, 0.5):
        task = ShapesEditingTask(config)
        params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), task.abstract_params())
        batch = jax.tree.map(jnp.asarray, next(task.batches(0)))
        loss, metrics = task.loss(params, batch, jax.random.key(0))
        losses[config.words_weight] = np.asarray(loss)
    # Zero parameters: every word of the vocabulary is equally likely.
    uniform = np.log(task.base.text_encoder.config.vocab_size)
    np.testing.assert_allclose(metrics["words"], uniform, rtol=1e-5)
    np.testing.assert_allclose(losses[0.5] - losses[0.0], 0.5 * uniform, rtol=1e-5)


def test_a_record_without_feedback_has_the_words_of_its_instruction_alone(config):
    pictures = [np.zeros((32, 32, 3), np.uint8)] * 2
    task = ShapesEditingTask(config)
    _, texts = task.read(pictures, TEXTS[:2], [None, Reward()], report_cut=warn_cut)
    expected = encode_texts(task.base.tokenizer, [TEXTS[0], "", TEXTS[1], "None; None; None"]).ids
    np.testing.assert_array_equal(texts.reshape(4, -1), expected)
