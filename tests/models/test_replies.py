"""Replies that LLaVA chooses with a cache, against passes over whole rows without one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import draw, tiny_llava

from rewardedit_jax.models.replies import sample_replies

MODULE = tiny_llava()
LENGTH, FEATURES = 12, 3
PROMPTS = np.zeros((2, LENGTH), np.int32)
PROMPTS[0, :5], PROMPTS[1, :4] = [1, 7, 3, 9, 4], [1, 5, 6, 8]
IMAGE_AT, REPLY_FROM = np.int32([2, 1]), np.int32([5, 4])
NEVER = 29  # an end token outside the vocabulary
SEEDS = np.uint32([3, 2**32 - 1])


@pytest.fixture(scope="module")
def params():
    return draw(MODULE)


@pytest.fixture(scope="module")
def pictures():
    return jax.random.normal(jax.random.key(1), (2, FEATURES, 16))


@pytest.fixture(scope="module")
def reply(params, pictures):
    """Seeds, temperature, end token and prompts → ids of both rows."""
    program = jax.jit(partial(sample_replies, MODULE))

    def of(seeds=SEEDS, temperature=0.0, end=NEVER, ids=PROMPTS, features=pictures, rows=slice(None)):
        prompts = ids[rows], features[rows], IMAGE_AT[rows], REPLY_FROM[rows]
        return np.asarray(program(params, *prompts, end, seeds, np.float32(temperature)))

    return of


@pytest.fixture(scope="module")
def next_logits(params, pictures):
    """Ids → logits [b, t, n] of the tokens that stand there, from one pass without cache."""

    @jax.jit
    def one_pass(ids):
        hidden = MODULE.apply({"params": params}, ids, pictures, jnp.asarray(IMAGE_AT))
        logits = MODULE.apply({"params": params}, hidden, method="logits")
        return logits[:, FEATURES - 2 : -1]  # the token at p moves to p - 1 + FEATURES, and is predicted before that

    return one_pass


def test_the_greedy_reply_is_the_likeliest_token_at_each_place(reply, next_logits):
    ids = reply()
    likeliest = next_logits(ids).argmax(axis=-1)
    for row, start in enumerate(REPLY_FROM):
        np.testing.assert_array_equal(ids[row, :start], PROMPTS[row, :start])
        np.testing.assert_array_equal(ids[row, start:], likeliest[row, start:])
    assert len(set(ids[:, 5:].ravel().tolist())) > 4  # it is not one token all along


def test_drawn_tokens_follow_the_logits_and_the_seed(reply, next_logits):
    ids, temperature = reply(temperature=0.7), 0.7
    logits = next_logits(ids) / np.float32(temperature)
    for row, start in enumerate(REPLY_FROM):
        for step, at in enumerate(range(start, LENGTH)):
            key = jax.random.fold_in(jax.random.key(SEEDS[row]), step)
            assert ids[row, at] == jax.random.categorical(key, logits[row, at])
    assert not np.array_equal(ids, reply(temperature=0.7, seeds=SEEDS - 1))


def test_a_row_depends_on_nothing_but_its_own(reply, pictures):
    """Not on what was in the place of its reply, and not on the other row."""
    ids = PROMPTS.copy()
    ids[0, 5:], ids[1, :4] = 11, [1, 2, 12, 13]
    other = pictures * np.float32([1, -1])[:, None, None]
    changed = reply(np.uint32([SEEDS[0], 7]), 0.7, ids=ids, features=other)
    np.testing.assert_array_equal(changed[0], reply(temperature=0.7)[0])


def test_a_reply_ends_with_its_end_token(reply):
    whole = reply()[0]
    stop = whole.tolist().index(end := whole[7], REPLY_FROM[0]) + 1
    for row in reply(end=end, rows=np.array([0, 0])):
        np.testing.assert_array_equal(row[:stop], whole[:stop])
        assert not row[stop:].any()  # where all replies have ended, the program stops
