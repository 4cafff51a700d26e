"""Prompts → token ids: a base model's tokenizer with the scorer's one token more."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int32

from rewardedit_jax.data.clip_tokenizer import without_torch_advisory
from rewardedit_jax.scoring.prompts import IMAGE_TOKEN, NO_SYSTEM, QWEN_SYSTEM, RESERVED_TOKENS, REWARD_TOKEN
from rewardedit_jax.weights.files import read_json
from rewardedit_jax.weights.hub import TOKENIZER_FILES, ModelNotFound, find_tokenizer

with without_torch_advisory():
    from transformers import AddedToken, AutoTokenizer

# How a chat template of Qwen's form begins a conversation.
_BEGINNING = re.compile(r"(<\|im_start\|>system\n(?P<system>.*?)<\|im_end\|>\n)?<\|im_start\|>user\n", re.DOTALL)
_REMEDY = f"set reward_model.system in config.json to the system text to use, or to {NO_SYSTEM!r} for no system turn"


@dataclass(frozen=True, eq=False)
class ScorerTokenizer:
    """A tokenizer that knows the reward token; threads may share it."""

    base: Any  # a fast tokenizer of transformers
    reward_id: int
    image_id: int
    unused: Mapping[int, str]  # special tokens that no prompt has, besides those that `chat_prompt` refuses

    def default_system(self) -> str:
        """The system text that the model's chat template puts in where a conversation has none, or `NO_SYSTEM`.

        Raises:
          ValueError: the template cannot be rendered, or makes conversations of another form than Qwen's.
        """
        name = self.base.name_or_path
        if not self.base.chat_template:
            logging.warning("The tokenizer in %s has no chat template: Qwen's system text is used. %s.", name, _REMEDY)
            return QWEN_SYSTEM
        rendered = self._conversation()
        beginning = _BEGINNING.match(rendered)
        if beginning is None:
            raise ValueError(
                f"by the chat template in {name} a conversation begins with {rendered[:40]!r}, not with a system or "
                f"user turn as Qwen writes them: {_REMEDY}."
            )
        return NO_SYSTEM if beginning["system"] is None else beginning["system"]

    def _conversation(self) -> str:
        # Imported here: saved scorers know their system text, and never need it.
        from jinja2 import TemplateError

        try:
            return self.base.apply_chat_template([{"role": "user", "content": "-"}], tokenize=False)
        except (TemplateError, TypeError, ValueError) as error:
            raise ValueError(
                f"the chat template in {self.base.name_or_path} cannot be rendered ({error}): {_REMEDY}."
            ) from error

    def encode(self, prompt: str) -> Int32[np.ndarray, " l"]:
        """The ids of a chat prompt up to its reward token: attention is causal, what follows changes nothing.

        Raises:
          ValueError: if the prompt has no reward token or several, or a special token that is none of prompts.
        """
        ids = np.asarray(self.base(prompt, add_special_tokens=False, verbose=False)["input_ids"], np.int32)
        found = np.flatnonzero(ids == self.reward_id)
        if len(found) != 1:
            raise ValueError(f"a prompt must contain {REWARD_TOKEN} once, this one has it {len(found)} times.")
        if strange := [token for i, token in self.unused.items() if i in ids]:
            raise ValueError(
                f"the instruction contains {', '.join(strange)}, which the scorer keeps for itself: take it out."
            )
        return ids[: found[0] + 1]

    def check_rows(self, rows: int) -> None:
        """Raises ValueError where the reward token's is not the last of so many embedding rows."""
        if self.reward_id != rows - 1:
            raise ValueError(
                f"the tokenizer in {self.base.name_or_path} gives {REWARD_TOKEN} the id {self.reward_id}, but the "
                f"checkpoint has {rows} embedding rows, the last of which ({rows - 1}) must be its: give the tokenizer "
                "of the model that was trained further (base=), or, for a base model without that row, cut its "
                f"embeddings to {self.reward_id + 1} rows."
            )


def load_tokenizer(directory: str | Path, base: str | Path | None = None) -> ScorerTokenizer:
    """The tokenizer of a scorer.

    Args:
      directory: the checkpoint's. Published EditReward checkpoints have no tokenizer files; then `base` is read.
      base: the base model's directory or hub id, of which the tokenizer is downloaded.
    Raises:
      FileNotFoundError: saying which files are missing, and where.
      ValueError: the files are damaged, or the tokenizer is of another model: it has no image token.
    """
    found = _find(Path(directory), base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(found, local_files_only=True)
    except Exception as error:  # of several libraries, one of which raises nothing more special
        raise ValueError(f"the tokenizer files in {found} cannot be read ({error}): copy them there again.") from error
    # Settings of tokenizer.json would be undone at the first call, under the feet of other threads.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.chat_template = _processors_template(found) or tokenizer.chat_template
    known = tokenizer.get_vocab()
    if IMAGE_TOKEN not in known:
        raise ValueError(f"the tokenizer in {found} has no {IMAGE_TOKEN}: it is not that of a Qwen2.5-VL model.")
    tokenizer.add_tokens([AddedToken(REWARD_TOKEN, normalized=False, special=True)], special_tokens=True)
    reward_id = tokenizer.convert_tokens_to_ids(REWARD_TOKEN)
    special = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    unused = {i: token for i, token in special.items() if token not in RESERVED_TOKENS}
    return ScorerTokenizer(tokenizer, reward_id, known[IMAGE_TOKEN], unused)


def reward_rows(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The embedding rows of a scorer, by the names and shapes of its tensors; None for a base model, without heads."""
    rows = [shape[0] for name, shape in shapes.items() if name.endswith("embed_tokens.weight")]
    return rows[0] if rows and any(name.startswith(("rm_head.", "rm_heads.")) for name in shapes) else None


def _find(directory: Path, base: str | Path | None) -> Path:
    """The directory that has the tokenizer files."""
    if not _missing(directory):
        return directory
    lacks = f"{directory} lacks {' and '.join(_missing(directory))}"
    if base is None:
        raise FileNotFoundError(
            f"{lacks}, as published EditReward checkpoints do: give base=, the directory or hub id of the model that "
            "it was trained from (for instance Qwen/Qwen2.5-VL-7B-Instruct)."
        )
    try:
        found = find_tokenizer(base)
    except ModelNotFound as error:
        raise FileNotFoundError(f"{lacks}, and base={base} does not help: {error}") from error
    if missing := _missing(found):
        raise FileNotFoundError(f"{lacks}, and so does base={base} ({' and '.join(missing)}): copy them there.")
    return found


def _missing(directory: Path) -> list[str]:
    return [name for name in TOKENIZER_FILES if not (directory / name).is_file()]


def _processors_template(directory: Path) -> str | None:
    """The chat template in a file of its own that older multimodal models have; it goes before the tokenizer's."""
    file = directory / "chat_template.json"
    return read_json(file).get("chat_template") if file.is_file() else None
