"""The scorer's tokenizer: that of a base model with the reward token added (arXiv:2509.26346, appendix A.4)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int32
from tokenizers import AddedToken

from rewardedit_jax.data.clip_tokenizer import without_torch_advisory
from rewardedit_jax.scoring.prompts import IMAGE_TOKEN, NO_SYSTEM, QWEN_SYSTEM, RESERVED_TOKENS, REWARD_TOKEN
from rewardedit_jax.weights.files import read_json
from rewardedit_jax.weights.hub import TOKENIZER_FILES, ModelNotFound, find_tokenizer
from rewardedit_jax.weights.tokenizer_files import load_tokenizer

# The beginning of a conversation in Qwen's chat format, with or without a system turn.
_BEGINNING = re.compile(r"(<\|im_start\|>system\n(?P<system>.*?)<\|im_end\|>\n)?<\|im_start\|>user\n", re.DOTALL)
_REMEDY = f"set reward_model.system in config.json to the system text, or to {NO_SYSTEM!r} to omit the system turn"


@dataclass(frozen=True, eq=False)
class ScorerTokenizer:
    """A tokenizer with the reward token. It is thread-safe."""

    base: Any  # a fast tokenizer of transformers
    reward_id: int
    image_id: int
    # Special tokens that prompts do not use, by id; without the RESERVED_TOKENS, which `chat_prompt` checks.
    unused: Mapping[int, str]

    def default_system(self) -> str:
        """The system text that the chat template adds to conversations without one, or `NO_SYSTEM`.

        EditReward's code renders its prompts with the base model's template and no system message.
        """
        name = self.base.name_or_path
        if not self.base.chat_template:
            logging.warning("the tokenizer in %s has no chat template, Qwen's system text is used: %s", name, _REMEDY)
            return QWEN_SYSTEM
        rendered = self._conversation()
        beginning = _BEGINNING.match(rendered)
        if beginning is None:
            raise ValueError(
                f"the chat template in {name} begins conversations with {rendered[:40]!r}: expected a system or user "
                f"turn in Qwen's format; {_REMEDY}."
            )
        return NO_SYSTEM if beginning["system"] is None else beginning["system"]

    def _conversation(self) -> str:
        # Imported here, because scorers that this package saved have their system text in config.json.
        from jinja2 import TemplateError

        try:
            return self.base.apply_chat_template([{"role": "user", "content": "-"}], tokenize=False)
        except (TemplateError, TypeError, ValueError) as error:
            raise ValueError(
                f"the chat template in {self.base.name_or_path} cannot be rendered ({error}); {_REMEDY}."
            ) from error

    def encode(self, prompt: str) -> Int32[np.ndarray, " l"]:
        """Token ids of a chat prompt up to its reward token; attention is causal, so later tokens have no effect."""
        ids = np.asarray(self.base(prompt, add_special_tokens=False, verbose=False)["input_ids"], np.int32)
        found = np.flatnonzero(ids == self.reward_id)
        if len(found) != 1:
            raise ValueError(f"the prompt has {len(found)} {REWARD_TOKEN} tokens: expected 1.")
        if reserved := [token for i, token in self.unused.items() if i in ids]:
            raise ValueError(
                f"the instruction contains {', '.join(reserved)}, a reserved token of the scorer: remove it."
            )
        return ids[: found[0] + 1]

    def check_rows(self, rows: int) -> None:
        """Raises ValueError unless the last of `rows` embedding rows is the reward token's."""
        # EditReward's training resizes the matrix to the tokenizer's length after it has added the token.
        if self.reward_id != rows - 1:
            raise ValueError(
                f"the tokenizer in {self.base.name_or_path} has id {self.reward_id} for {REWARD_TOKEN}, but the "
                f"checkpoint has {rows} embedding rows: expected the id of the last row, {rows - 1}. Give the "
                "tokenizer of the model that was trained further (base=), or, for a base model without that row, cut "
                f"its embeddings to {self.reward_id + 1} rows."
            )


def load_scorer_tokenizer(directory: str | Path, base: str | Path | None = None) -> ScorerTokenizer:
    """The tokenizer of a scorer.

    Args:
      directory: the checkpoint's directory.
      base: directory or hub id of the base model; used if `directory` has no tokenizer files, as published EditReward
        checkpoints. Only the tokenizer is downloaded.
    Raises:
      FileNotFoundError: files are missing; names them and their directory.
      ValueError: the files are damaged, or the tokenizer has no image token.
    """
    # Where PyTorch is installed, this import loads it: a second that an editor does not need.
    with without_torch_advisory():
        from transformers import AutoTokenizer

    found = _find(Path(directory), base)
    tokenizer = load_tokenizer(AutoTokenizer.from_pretrained, found)
    # transformers resets truncation and padding from tokenizer.json at the first call. Two threads that do so at the
    # same time fail, so it is done here.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.chat_template = _processors_template(found) or tokenizer.chat_template
    known = tokenizer.get_vocab()
    if IMAGE_TOKEN not in known:
        raise ValueError(f"the tokenizer in {found} has no {IMAGE_TOKEN}: expected that of a Qwen2.5-VL model.")
    # Its id is the length of the tokenizer, as in EditReward's training code.
    tokenizer.add_tokens([AddedToken(REWARD_TOKEN, normalized=False, special=True)], special_tokens=True)
    reward_id = tokenizer.convert_tokens_to_ids(REWARD_TOKEN)
    special = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    unused = {i: token for i, token in special.items() if token not in RESERVED_TOKENS}
    return ScorerTokenizer(tokenizer, reward_id, known[IMAGE_TOKEN], unused)


def reward_rows(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Embedding rows of a scorer, from the names and shapes of its tensors; None for a base model (without heads)."""
    rows = [shape[0] for name, shape in shapes.items() if name.endswith("embed_tokens.weight")]
    return rows[0] if rows and any(name.startswith(("rm_head.", "rm_heads.")) for name in shapes) else None


def _find(directory: Path, base: str | Path | None) -> Path:
    """The directory with the tokenizer files."""
    if not _missing(directory):
        return directory
    lacks = f"{directory} lacks {' and '.join(_missing(directory))}"
    if base is None:
        raise FileNotFoundError(
            f"{lacks}, as published EditReward checkpoints do: give base=, the directory or hub id of its base model "
            "(such as Qwen/Qwen2.5-VL-7B-Instruct)."
        )
    try:
        found = find_tokenizer(base)
    except ModelNotFound as error:
        raise FileNotFoundError(f"{lacks}, and base={base} was not found: {error}") from error
    if missing := _missing(found):
        raise FileNotFoundError(f"{lacks}, and base={base} lacks {' and '.join(missing)}: copy them there.")
    return found


def _missing(directory: Path) -> list[str]:
    return [name for name in TOKENIZER_FILES if not (directory / name).is_file()]


def _processors_template(directory: Path) -> str | None:
    """The template in chat_template.json of older multimodal models, which takes precedence over the tokenizer's."""
    file = directory / "chat_template.json"
    return read_json(file).get("chat_template") if file.is_file() else None
