"""Packed conversations: each prompt is read as if it were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax.data.smartedit_prompts import NO_TARGET, read_conversations
from rewardedit_jax.models.llava import Llava, LlavaConfig
from rewardedit_jax.params import random_params
from rewardedit_jax.shapes.language_tokenizer import shapes_language_tokenizer
from rewardedit_jax.shapes.packed_conversations import NO_KIND, make_prompt, pack, read_packed, shared_ids

INSTRUCTION = "make the red circle blue"
QUESTIONS = [("where is the red circle", "at the top left"), ("what color is the background", "mint")]
LENGTH, FEATURES, WIDTH = 50, 6, 8


@pytest.fixture(scope="module")
def tokenizer():
    return shapes_language_tokenizer()


@pytest.fixture(scope="module")
def prompts(tokenizer):
    asked = [make_prompt(tokenizer, text, answer, kind) for kind, (text, answer) in enumerate(QUESTIONS)]
    return [make_prompt(tokenizer, INSTRUCTION), *asked]


@pytest.fixture(scope="module")
def llava(tokenizer):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    described = {"model_type": "llava", **sizes, "mm_hidden_size": WIDTH, "vocab_size": tokenizer.vocabulary_size}
    return Llava(LlavaConfig.from_hf(described))


def test_an_instruction_is_the_conversation_of_smartedit(tokenizer, prompts):
    told = read_conversations(tokenizer, [INSTRUCTION], tokenizer.length, pytest.fail)
    whole = [*shared_ids(tokenizer), *prompts[0].ids]
    assert told.ids[0, : told.lengths[0]].tolist() == whole
    assert len(shared_ids(tokenizer)) + prompts[0].reply_from == told.reply_from[0]
    rows = pack(tokenizer, [prompts], LENGTH, 4)
    np.testing.assert_array_equal(rows.reply_at[:, 0], told.reply_at)
    np.testing.assert_array_equal(rows.image_at, told.image_at)


def test_answers_are_the_targets(tokenizer, prompts):
    rows = pack(tokenizer, [prompts], LENGTH, 4)
    told = [tokenizer.backend.id_to_token(int(i)) for i in rows.targets[0] if i != NO_TARGET]
    assert told[10:] == ["▁at", "▁the", "▁top", "▁left", "</s>", "▁mint", "</s>"]
    assert rows.kinds.tolist() == [[NO_KIND, 0, 1, NO_KIND]]
    inside = rows.ids[:, -LENGTH:]
    np.testing.assert_array_equal(np.where(rows.targets == NO_TARGET, inside, rows.targets), inside)


def test_prompts_that_do_not_fit_are_left_out(tokenizer, prompts):
    short = len(prompts[0].ids) + len(prompts[2].ids)
    rows = pack(tokenizer, [prompts, prompts[:1]], short, 4)
    assert rows.kinds.tolist() == [[NO_KIND, 1, NO_KIND, NO_KIND], [NO_KIND] * 4]
    assert rows.segments[1].max() == 1
    assert pack(tokenizer, [prompts], LENGTH, 2).kinds.tolist() == [[NO_KIND, 0]]


def test_each_prompt_is_read_as_if_it_were_alone(tokenizer, prompts, llava):
    params = random_params(llava, jax.random.key(0))
    features = jax.random.normal(jax.random.key(1), (1, FEATURES, WIDTH))
    rows, begin = jax.tree.map(jnp.asarray, pack(tokenizer, [prompts], LENGTH, 4)), shared_ids(tokenizer)
    packed = llava.apply({"params": params}, rows, features, method=read_packed)
    assert packed.shape == (1, len(begin) + LENGTH - 1 + FEATURES, 16)
    at = len(begin)
    for prompt in prompts:
        ids = jnp.asarray([[*begin, *prompt.ids]])
        alone = llava.apply({"params": params}, ids, features, rows.image_at)
        size = len(prompt.ids)
        found = packed[:, at + FEATURES - 1 : at + FEATURES - 1 + size]
        np.testing.assert_allclose(found, alone[:, -size:], atol=1e-5)
        at += size
