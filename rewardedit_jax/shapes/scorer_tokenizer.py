"""A tokenizer for scorers of the shapes world: Qwen2.5-VL's special tokens, and short prompts.

Every word of the world's instructions is one token, and so is every passage that all prompts share: a prompt of 450
tokens then has about 20, without its images. A small scorer is ten times as fast for it, and sees more image than text.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from rewardedit_jax.scoring.prompts import fixed_phrases
from rewardedit_jax.scoring.tokenizer import ScorerTokenizer, load_scorer_tokenizer
from rewardedit_jax.shapes.tokenizer import learn_merges
from rewardedit_jax.shapes.wording import vocabulary_texts

# Those of Qwen2.5-VL that prompts use, in its order.
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")


def shapes_scorer_tokenizer() -> ScorerTokenizer:
    """The tokenizer of the shapes world's scorers, to which a prompt is about 20 tokens."""
    with tempfile.TemporaryDirectory() as directory:
        write_scorer_tokenizer(directory, fixed_phrases())
        return load_scorer_tokenizer(directory)


def write_scorer_tokenizer(directory: str | Path, phrases: Sequence[str]) -> None:
    """Writes tokenizer.json and tokenizer_config.json, the same ones always.

    Any other text is told apart too, in more tokens: nothing is unknown to byte-level BPE.

    Args:
      phrases: what is one token each, whatever surrounds it.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _tokenizer(phrases).save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": _SPECIAL[0],
        "eos_token": _SPECIAL[2],
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), "utf-8")


def _tokenizer(phrases: Sequence[str]) -> Tokenizer:
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # At the start of an instruction a word has no space before it, elsewhere it has.
    texts = [space + word for text in vocabulary_texts() for word in text.split() for space in ("", " ")]
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    merges = learn_merges([list(word) for word in words])
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return tokenizer
