"""The tokenizer of the shapes world's language model: LLaMA's layout with few pieces, one for each word.

The sentences that all conversations of SmartEdit share are one piece each. A conversation then has about 30 ids where
LLaMA's own tokenizer needs 140, and a small language model is as much faster.
"""

import re
import tempfile
from functools import cache
from itertools import accumulate
from pathlib import Path

from rewardedit_jax.data.llama_tokenizer import LlamaTokenizer, load_language_tokenizer
from rewardedit_jax.data.smartedit_prompts import conversation
from rewardedit_jax.shapes.tokenizers import Pair, learn_merges
from rewardedit_jax.shapes.visual_questions import language_texts
from rewardedit_jax.weights.files import write_json

IMAGES = 8  # image tokens of a reply, whose states the Q-Former reads; published models have 32
_LENGTH = 48  # ids of a conversation: 18 of every one, and an instruction of up to 30
_ADDED = ("<img>", "<im_start>", "<im_end>", *(f"<img_{k}>" for k in range(IMAGES)))
_SPECIAL = ("<unk>", "<s>", "</s>")
_SPACE = "▁"  # SentencePiece's character for a space


@cache
def shapes_language_tokenizer() -> LlamaTokenizer:
    """The tokenizer, the same in every run. Characters that no text of the world has are encoded as bytes."""
    with tempfile.TemporaryDirectory() as directory:
        _write(Path(directory))
        return load_language_tokenizer(directory)


def _write(directory: Path) -> None:
    """Writes tokenizer.json, of which only pieces, merges and added tokens are read, and tokenizer_config.json."""
    merges = _merges()
    characters = sorted({character for pair in merges for part in pair for character in part})
    pieces = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *characters, *map("".join, merges)]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    model = {"type": "BPE", "byte_fallback": True, "vocab": vocabulary, "merges": [list(pair) for pair in merges]}
    added = [{"id": len(vocabulary) + i, "content": token} for i, token in enumerate(_ADDED)]
    write_json({"model": model, "added_tokens": added}, directory / "tokenizer.json")
    write_json({"model_max_length": _LENGTH}, directory / "tokenizer_config.json")


def _merges() -> list[Pair]:
    """Merges of characters to words, then of words to the shared sentences."""
    sentences = [re.findall("▁?[^▁]+", sentence) for sentence in _sentences()]
    words = {f"{_SPACE}{word}" for text in language_texts() for word in text.split()}
    words = sorted(words.union(*sentences))
    # Ids of any English word in few pieces need all letters.
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    merges = [*learn_merges([list(word) for word in words]), *((_SPACE, letter) for letter in letters)]
    # From the left: a pair begins with the first word of its sentence, which no other text has.
    for sentence in sentences:
        merges += _prefix_merges(sentence)
    return list(dict.fromkeys(merges))


def _prefix_merges(words: list[str]) -> list[Pair]:
    """The merges that join words to one piece, from the left: (a, b), (ab, c), (abc, d), ..."""
    return list(zip(accumulate(words[:-1]), words[1:], strict=True))


def _sentences() -> list[str]:
    """The parts of a conversation between its added tokens, the instruction apart, as they are before any merge.

    The reply is a part of its own: its first id is where the prompt ends.
    """
    prompt, reply = conversation("", _ADDED[3:])
    parts = [part.strip() for text in (prompt, reply) for part in re.split(r"<[^>]*>", text)]
    begun = [part.replace(" ", _SPACE) for part in parts if part]
    # Behind the instruction there is no prefix.
    return [part if part.startswith('"') else _SPACE + part for part in begun]
