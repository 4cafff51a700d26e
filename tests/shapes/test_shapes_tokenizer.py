"""The shapes world's tokenizer."""

from rewardedit_jax.shapes.tokenizer import _merge, shapes_tokenizer
from rewardedit_jax.shapes.wording import vocabulary_texts


def test_each_making_gives_the_same_ids():
    """A resumed training makes it anew, and its weights know the ids."""
    assert shapes_tokenizer.__wrapped__().get_vocab() == shapes_tokenizer().get_vocab()


def test_every_word_of_the_world_is_one_token():
    tokenizer = shapes_tokenizer()
    words = {word for text in vocabulary_texts() for word in text.split()}
    split = {word: tokenizer.tokenize(word) for word in words}
    assert {word: tokens for word, tokens in split.items() if len(tokens) != 1 and word.isalpha()} == {}
    assert len({tokens[0] for tokens in split.values()}) > 50


def test_other_words_are_told_apart():
    tokenizer = shapes_tokenizer()
    ids = {tuple(tokenizer(text)["input_ids"]) for text in ("zebra", "zebras", "zébra", "quartz")}
    assert len(ids) == 4
    assert tokenizer.decode(tokenizer("a zebra")["input_ids"], skip_special_tokens=True) == "a zebra"


def test_pairs_merge_from_the_left():
    assert _merge(["a", "a", "a", "b"], ("a", "a")) == ["aa", "a", "b"]
