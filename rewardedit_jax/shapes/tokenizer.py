"""A CLIP tokenizer for the shapes world: byte-level BPE as CLIP's, with every word of the world as one token."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel

from rewardedit_jax.data.clip_tokenizer import CLIPTokenizer
from rewardedit_jax.shapes.wording import vocabulary_texts

MAX_TOKENS = 32  # three feedback texts of eight words, two semicolons, start and end
_START, _END = "<|startoftext|>", "<|endoftext|>"
_END_OF_WORD = "</w>"

Pair = tuple[str, str]


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


def _learn_merges() -> list[Pair]:
    plain = CLIPTokenizer().backend_tokenizer
    normalised = (plain.normalizer.normalize_str(text) for text in vocabulary_texts())
    words = {word for text in normalised for word, _ in plain.pre_tokenizer.pre_tokenize_str(text)}
    return learn_merges([[*word[:-1], word[-1] + _END_OF_WORD] for word in sorted(words)])


def learn_merges(parts: Sequence[Sequence[str]]) -> list[Pair]:
    """Byte-pair encoding until every word, given in its parts, is one token; each word counts once.

    Learnt here, because the trainer of `tokenizers` breaks ties by hash order: ids would differ from run to run.
    """
    merges = []
    while pairs := Counter(pair for part in parts for pair in pairwise(part)):
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        parts = [_merge(part, merges[-1]) for part in parts]
    return merges


def _merge(tokens: Sequence[str], pair: Pair) -> list[str]:
    merged = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged
