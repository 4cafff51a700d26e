"""A CLIP tokenizer for the shapes world: byte-level BPE as CLIP's, with every word of the world as one token."""

from functools import cache

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from rewardedit_jax.data.shapes.wording import vocabulary_texts
from rewardedit_jax.data.tokenize import CLIPTokenizer

MAX_TOKENS = 32  # three feedback texts of eight words, two semicolons, start and end
_START, _END = "<|startoftext|>", "<|endoftext|>"
_END_OF_WORD = "</w>"


@cache
def shapes_tokenizer() -> CLIPTokenizer:
    """Ids in CLIP's order: 256 bytes, the same at the end of a word, merges by rank, the two special tokens.

    Any other text is told apart too, in more tokens: nothing is unknown to byte-level BPE.
    """
    merges = _learn_merges()
    # CLIP lists the bytes by code point, printable ones first, which is the order of their stand-ins.
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + _END_OF_WORD for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {token: i for i, token in enumerate([*dict.fromkeys(tokens), _START, _END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def _learn_merges() -> list[tuple[str, str]]:
    """Merge until every word of the world is whole; each word counts once, so the result depends on the words alone."""
    plain = CLIPTokenizer().backend_tokenizer
    normalised = (plain.normalizer.normalize_str(text) for text in vocabulary_texts())
    words = sorted({word for text in normalised for word, _ in plain.pre_tokenizer.pre_tokenize_str(text)})
    model = Tokenizer(BPE(end_of_word_suffix=_END_OF_WORD))
    trainer = BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        end_of_word_suffix=_END_OF_WORD,
        show_progress=False,
    )
    model.train_from_iterator(words, trainer)
    return [tuple(pair) for pair in _merges_of(model)]


def _merges_of(model: Tokenizer) -> list[list[str]]:
    import json

    return json.loads(model.to_str())["model"]["merges"]
