"""Texts → CLIP token ids, padded and cut to the length that the text encoder takes; what is cut is reported."""

import hashlib
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging as absl_logging
from jaxtyping import Int32

from rewardedit_jax.weights.tokenizer_files import load_tokenizer

_SHOWN = 200  # characters of a text in a warning


@contextmanager
def without_torch_advisory() -> Iterator[None]:
    """Silences the message that transformers logs on import where PyTorch is missing.

    It says that models are not available. This package uses only the tokenizers.
    """
    logger = logging.getLogger("transformers")
    quiet = lambda record: "PyTorch was not found" not in record.getMessage()  # noqa: E731
    logger.addFilter(quiet)
    try:
        yield
    finally:
        logger.removeFilter(quiet)


with without_torch_advisory():
    from transformers import CLIPTokenizer

# A tokenizer needs both of the older files, or the newer one alone, which holds the content of both.
_FILES = (("vocab.json", "merges.txt"), ("tokenizer.json",))
# transformers writes a huge number where a tokenizer does not say how long its texts may be.
_UNLIMITED = 1_000_000


class TruncationWarning(UserWarning):
    """A text had more tokens than the model takes; the rest was cut."""


class Tokens(NamedTuple):
    """Token ids of texts, and how much of each text did not fit."""

    ids: Int32[np.ndarray, "n l"]  # padded with the tokenizer's pad token
    cut: Int32[np.ndarray, " n"]  # number of tokens of each text that were cut


def load_clip_tokenizer(directory: str | Path) -> CLIPTokenizer:
    """The tokenizer in an editor's folder `tokenizer`, or beside the weights of a CLIP.

    Errors name the file that is missing or incomplete.
    """
    directory = Path(directory)
    missing = [[name for name in names if not (directory / name).is_file()] for names in _FILES]
    if all(missing):
        raise FileNotFoundError(
            f"{directory} lacks {' and '.join(missing[0])} (or, instead of both, tokenizer.json). "
            "Every Stable Diffusion 1.x model has them in its folder 'tokenizer', CLIP beside its weights: copy them."
        )
    tokenizer = load_tokenizer(CLIPTokenizer.from_pretrained, directory)
    length = tokenizer.model_max_length
    if not (isinstance(length, int) and 2 < length <= _UNLIMITED):
        raise ValueError(f"{directory / 'tokenizer_config.json'}: model_max_length={length}: expected 77 for CLIP.")
    # transformers resets these settings of tokenizer.json at the first call, which is not safe if threads share it.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def encode_texts(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tokens:
    """Start token, text, end token; padded or cut to `model_max_length`, the end token kept."""
    length = tokenizer.model_max_length
    # Padded and cut here: as arguments, both would change the state of a tokenizer that threads share.
    rows = tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
    ids = np.full((len(rows), length), tokenizer.pad_token_id, np.int32)
    for row, tokens in zip(ids, rows, strict=True):
        kept = tokens if len(tokens) <= length else [*tokens[: length - 1], tokens[-1]]
        row[: len(kept)] = kept
    return Tokens(ids, np.asarray([max(0, len(tokens) - length) for tokens in rows], np.int32))


def tokenizer_digest(tokenizer: CLIPTokenizer) -> str:
    """16 hexadecimal digits, equal for tokenizers with which `encode_texts` gives equal ids."""
    settings = tokenizer.backend_tokenizer.to_str(), tokenizer.model_max_length, tokenizer.pad_token_id
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:16]


def warn_cut(text: str, tokens: int) -> None:
    """Warns that this number of tokens of a text was cut."""
    warnings.warn(f"{tokens} tokens more than the model takes were cut from: {_shown(text)}", TruncationWarning, 2)


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class CutTexts:
    """Counts the texts that were cut, from any thread, and logs the 1st, 10th, 100th, ...: not one line per text."""

    def __init__(self):
        self.count = 0
        self._lock = threading.Lock()

    def __call__(self, text: str, tokens: int) -> None:
        with self._lock:
            self.count += 1
            count = self.count
        if str(count).strip("0") == "1":
            absl_logging.warning(
                "%d texts read so far were cut; this one by %d tokens: %s", count, tokens, _shown(text)
            )
