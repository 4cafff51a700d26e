"""Prompts → token ids: a base model's tokenizer with the scorer's one token more."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from rewardedit_jax.data.tokenize import without_torch_advisory
from rewardedit_jax.scoring.prompts import IMAGE_TOKEN, REWARD_TOKEN

with without_torch_advisory():
    from transformers import AddedToken, AutoTokenizer

_FILES = ("tokenizer.json", "tokenizer_config.json")
# In the text of a Jinja template the end of the line is often an escape.
_SYSTEM = re.compile(r"<\|im_start\|>system(?:\\n|\n)([^{}<]+)<\|im_end\|>")


@dataclass(frozen=True, eq=False)
class ScorerTokenizer:
    """A tokenizer that knows the reward token; threads may share it."""

    base: Any  # a fast tokenizer of transformers
    reward_id: int
    image_id: int

    @property
    def system(self) -> str | None:
        """The system turn that the model's chat template puts in where a conversation has none; None without one."""
        template = self.base.chat_template
        found = _SYSTEM.search(template) if isinstance(template, str) else None
        return found and found[1]

    def encode(self, prompt: str) -> Int32[np.ndarray, " l"]:
        """The ids of a chat prompt up to its reward token: attention is causal, what follows changes nothing.

        Raises:
          ValueError: if the prompt has no reward token or several.
        """
        ids = np.asarray(self.base(prompt, add_special_tokens=False, verbose=False)["input_ids"], np.int32)
        found = np.flatnonzero(ids == self.reward_id)
        if len(found) != 1:
            raise ValueError(f"a prompt must contain {REWARD_TOKEN} once, this one has it {len(found)} times.")
        return ids[: found[0] + 1]


def load_tokenizer(directory: str | Path, rows: int | None = None, base: str | Path | None = None) -> ScorerTokenizer:
    """The tokenizer of a scorer.

    Args:
      directory: the checkpoint's. Published EditReward checkpoints have no tokenizer files; then `base` is read.
      rows: embedding rows of the checkpoint, of which the last must be the reward token's. None where a model is still
        to be made: it needs `reward_id + 1` rows.
      base: the base model's directory, or its hub id if its files were downloaded before.
    Raises:
      FileNotFoundError: saying which files are missing, and where.
      ValueError: the tokenizer is of another model: it has no image token, or its reward token is not the last row.
    """
    found = _find(Path(directory), base)
    tokenizer = AutoTokenizer.from_pretrained(found, local_files_only=True)
    # Settings of tokenizer.json would be undone at the first call, under the feet of other threads.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    known = tokenizer.get_vocab()
    if IMAGE_TOKEN not in known:
        raise ValueError(f"the tokenizer in {found} has no {IMAGE_TOKEN}: it is not that of a Qwen2.5-VL model.")
    tokenizer.add_tokens([AddedToken(REWARD_TOKEN, normalized=False, special=True)], special_tokens=True)
    reward_id = tokenizer.convert_tokens_to_ids(REWARD_TOKEN)
    if rows is not None and reward_id != rows - 1:
        raise ValueError(_wrong_rows(found, reward_id, rows))
    return ScorerTokenizer(tokenizer, reward_id, known[IMAGE_TOKEN])


def _find(directory: Path, base: str | Path | None) -> Path:
    """The directory that has the tokenizer files."""
    if not _missing(directory):
        return directory
    lacks = f"{directory} lacks {' and '.join(_missing(directory))}"
    if base is None:
        raise FileNotFoundError(
            f"{lacks}, as published EditReward checkpoints do: give base=, the directory of the model that it was "
            "trained from (for instance Qwen/Qwen2.5-VL-7B-Instruct)."
        )
    local = Path(base).expanduser()
    if not local.is_dir():
        local = _downloaded(str(base), lacks)
    if missing := _missing(local):
        raise FileNotFoundError(f"{lacks}, and so does base={base} ({' and '.join(missing)}): copy them there.")
    return local


def _missing(directory: Path) -> list[str]:
    return [name for name in _FILES if not (directory / name).is_file()]


def _downloaded(hub_id: str, lacks: str) -> Path:
    # Imported here: the hub client takes a while to load and local work never needs it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(_FILES), local_files_only=True))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{lacks}, and base={hub_id} is neither a directory nor a hub id that was downloaded before: "
            f"`hf download {hub_id} {' '.join(_FILES)}`, or give a directory that has these files."
        ) from error


def _wrong_rows(directory: Path, reward_id: int, rows: int) -> str:
    return (
        f"the tokenizer in {directory} gives {REWARD_TOKEN} the id {reward_id}, but the checkpoint has {rows} "
        f"embedding rows, the last of which ({rows - 1}) must be its: give the tokenizer of the model that was trained "
        f"further (base=), or, for a base model without that row, cut its embeddings to {reward_id + 1} rows."
    )
