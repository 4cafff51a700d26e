"""Tokenizers of the shapes world: CLIP's for its editors and Qwen2.5-VL's layout for its scorers.

Both are byte-level BPE in which every word of the world is one token and any other text takes more. Merges are learnt
here, in a fixed order, so that the ids are the same in every run.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel

from rewardedit_jax.data.clip_tokenizer import CLIPTokenizer
from rewardedit_jax.scoring.prompts import fixed_phrases
from rewardedit_jax.scoring.tokenizer import ScorerTokenizer, load_scorer_tokenizer
from rewardedit_jax.shapes.wording import vocabulary_texts

MAX_TOKENS = 32  # three feedback texts of eight words, two semicolons, start and end
_START, _END = "<|startoftext|>", "<|endoftext|>"
_END_OF_WORD = "</w>"  # CLIP marks the last part of a word
# The special tokens of Qwen2.5-VL that prompts use, in its order.
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")

Pair = tuple[str, str]


@cache
def shapes_tokenizer() -> CLIPTokenizer:
    """The editors' tokenizer, with ids in CLIP's order: bytes, bytes at the end of a word, merges, special tokens."""
    # The words are normalised and split as CLIP does.
    plain = CLIPTokenizer().backend_tokenizer
    normalised = (plain.normalizer.normalize_str(text) for text in vocabulary_texts())
    words = {word for text in normalised for word, _ in plain.pre_tokenizer.pre_tokenize_str(text)}
    merges = learn_merges([[*word[:-1], word[-1] + _END_OF_WORD] for word in sorted(words)])
    # CLIP orders the bytes by the code points that `ByteLevel` maps them to, printable bytes first.
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + _END_OF_WORD for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {token: i for i, token in enumerate([*dict.fromkeys(tokens), _START, _END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def shapes_scorer_tokenizer() -> ScorerTokenizer:
    """The scorers' tokenizer, in which a prompt takes about 20 tokens; Qwen2.5-VL's own needs 450.

    Each passage that all prompts share is one token. That makes a small scorer ten times as fast.
    """
    with tempfile.TemporaryDirectory() as directory:
        write_scorer_tokenizer(directory, fixed_phrases())
        return load_scorer_tokenizer(directory)


def write_scorer_tokenizer(directory: str | Path, phrases: Sequence[str]) -> None:
    """Writes tokenizer.json and tokenizer_config.json. Each of the phrases is one token, whatever surrounds it."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _scorer_tokenizer(phrases).save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": _SPECIAL[0],
        "eos_token": _SPECIAL[2],
        "clean_up_tokenization_spaces": False,  # decoding returns the text unchanged
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), "utf-8")


def _scorer_tokenizer(phrases: Sequence[str]) -> Tokenizer:
    split = ByteLevel(add_prefix_space=False)
    # Byte-level BPE joins a space to the word after it; only the first word of an instruction has none.
    texts = [space + word for text in vocabulary_texts() for word in text.split() for space in ("", " ")]
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    merges = learn_merges([list(word) for word in words])
    tokens = [*sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return tokenizer


def learn_merges(parts: Sequence[Sequence[str]]) -> list[Pair]:
    """Byte-pair encoding until every word, given in its parts, is one token; each word counts once."""
    # The trainer of `tokenizers` breaks ties by hash order, so its ids differ from run to run.
    merges = []
    while pairs := Counter(pair for part in parts for pair in pairwise(part)):
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        parts = [_merge(part, merges[-1]) for part in parts]
    return merges


def _merge(tokens: Sequence[str], pair: Pair) -> list[str]:
    """The tokens with every occurrence of the pair joined, from the left."""
    merged = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged
