"""Texts → CLIP token ids, padded and cut to what the text encoder takes; a cut is told, never silent."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32


@contextmanager
def without_torch_advisory() -> Iterator[None]:
    """transformers tells every process without PyTorch that only tokenizers can be used: all that we use."""
    logger = logging.getLogger("transformers")
    quiet = lambda record: "PyTorch was not found" not in record.getMessage()  # noqa: E731
    logger.addFilter(quiet)
    try:
        yield
    finally:
        logger.removeFilter(quiet)


with without_torch_advisory():
    from transformers import CLIPTokenizer

# tokenizer.json holds both of the others.
_FILES = (("vocab.json", "merges.txt"), ("tokenizer.json",))
# transformers writes a huge number where a tokenizer does not say how long its texts may be.
_UNLIMITED = 1_000_000


class TruncationWarning(UserWarning):
    """A text had more tokens than the text encoder takes; the rest was cut."""


class Tokens(NamedTuple):
    """Token ids of texts, and what did not fit."""

    ids: Int32[np.ndarray, "n l"]  # padded with the tokenizer's pad token
    cut: Int32[np.ndarray, " n"]  # how many tokens of each text were cut


def load_tokenizer(directory: str | Path) -> CLIPTokenizer:
    """The tokenizer of a model directory's `tokenizer` folder.

    Raises:
      FileNotFoundError: saying which files are missing.
      ValueError: if the files do not say how many tokens a text may have.
    """
    directory = Path(directory)
    missing = [[name for name in names if not (directory / name).is_file()] for names in _FILES]
    if all(missing):
        raise FileNotFoundError(
            f"{directory} lacks {' and '.join(missing[0])} (or, instead of both, tokenizer.json). "
            "Every Stable Diffusion 1.x model directory has them in its folder 'tokenizer': copy that folder."
        )
    tokenizer = CLIPTokenizer.from_pretrained(directory, local_files_only=True)
    if tokenizer.model_max_length > _UNLIMITED:
        raise ValueError(f"{directory}/tokenizer_config.json does not give model_max_length; CLIP's is 77.")
    # Settings of tokenizer.json would be undone at the first call, under the feet of other threads.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def encode(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tokens:
    """Start token, text, end token; padded or cut to `model_max_length`, the end token kept."""
    length = tokenizer.model_max_length
    # Padding and truncation are ours: as arguments they would change the tokenizer, which threads share.
    rows = tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
    ids = np.full((len(rows), length), tokenizer.pad_token_id, np.int32)
    for row, tokens in zip(ids, rows, strict=True):
        kept = tokens if len(tokens) <= length else [*tokens[: length - 1], tokens[-1]]
        row[: len(kept)] = kept
    return Tokens(ids, np.asarray([max(0, len(tokens) - length) for tokens in rows], np.int32))


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Int32[np.ndarray, "n l"]:
    """The ids of `encode`; a text that does not fit gives a `TruncationWarning` saying how much was cut."""
    tokens = encode(tokenizer, texts)
    for text, cut in zip(texts, tokens.cut, strict=True):
        if cut:
            limit = f"the text encoder takes {tokenizer.model_max_length}, start and end included"
            warnings.warn(f"{cut} tokens cut ({limit}) from: {text}", TruncationWarning, stacklevel=2)
    return tokens.ids
