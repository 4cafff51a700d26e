"""Tokenizers of the shapes world: exact, short, the same in every run."""

import numpy as np
import pytest

from rewardedit_jax.scoring.prompts import PERSPECTIVES, chat_prompt, fixed_phrases
from rewardedit_jax.scoring.tokenizer import load_scorer_tokenizer
from rewardedit_jax.shapes.tokenizers import _merge, shapes_tokenizer, write_scorer_tokenizer
from rewardedit_jax.shapes.wording import vocabulary_texts

INSTRUCTION = "turn the red circle blue"


def test_each_making_gives_the_same_ids():
    """A resumed training builds the tokenizer again, with weights for the old ids."""
    assert shapes_tokenizer.__wrapped__().get_vocab() == shapes_tokenizer().get_vocab()


def test_every_word_of_the_world_is_one_token():
    tokenizer = shapes_tokenizer()
    words = {word for text in vocabulary_texts() for word in text.split()}
    split = {word: tokenizer.tokenize(word) for word in words}
    assert {word: tokens for word, tokens in split.items() if len(tokens) != 1 and word.isalpha()} == {}
    assert len({tokens[0] for tokens in split.values()}) > 50


def test_other_words_have_distinct_ids():
    tokenizer = shapes_tokenizer()
    ids = {tuple(tokenizer(text)["input_ids"]) for text in ("zebra", "zebras", "zébra", "quartz")}
    assert len(ids) == 4
    assert tokenizer.decode(tokenizer("a zebra")["input_ids"], skip_special_tokens=True) == "a zebra"


def test_pairs_merge_from_the_left():
    assert _merge(["a", "a", "a", "b"], ("a", "a")) == ["aa", "a", "b"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    write_scorer_tokenizer(directory, fixed_phrases())
    return directory


@pytest.mark.parametrize("instruction", [INSTRUCTION, "Ändere  the sky{}: 5 % more\tviolet!", "user END system"])
@pytest.mark.parametrize("perspective", PERSPECTIVES)
def test_prompts_are_kept_to_the_byte(directory, instruction, perspective):
    tokenizer = load_scorer_tokenizer(directory)
    prompt = chat_prompt(instruction, perspective)
    ids = tokenizer.encode(prompt)
    end = prompt.index("<|Reward|>") + len("<|Reward|>")
    assert tokenizer.base.decode(ids) == prompt[:end]


def test_prompts_are_short(directory):
    tokenizer = load_scorer_tokenizer(directory)
    prompts = [tokenizer.encode(chat_prompt(INSTRUCTION, perspective)) for perspective in PERSPECTIVES]
    assert max(map(len, prompts)) < 32
    assert all(ids[-1] == tokenizer.reward_id == len(tokenizer.base) - 1 for ids in prompts)


def test_words_are_one_token_each(directory):
    base = load_scorer_tokenizer(directory).base
    assert len(base(INSTRUCTION)["input_ids"]) == len(INSTRUCTION.split())


def test_an_instruction_is_read_alike_in_both_prompts(directory):
    tokenizer = load_scorer_tokenizer(directory)
    inside = tokenizer.base(INSTRUCTION)["input_ids"]
    for perspective in PERSPECTIVES:
        ids = tokenizer.encode(chat_prompt(INSTRUCTION, perspective))
        windows = np.lib.stride_tricks.sliding_window_view(ids, len(inside))
        assert (windows == inside).all(axis=1).sum() == 1


def test_it_is_the_same_every_time(directory, tmp_path):
    write_scorer_tokenizer(tmp_path, fixed_phrases())
    assert (tmp_path / "tokenizer.json").read_bytes() == (directory / "tokenizer.json").read_bytes()
