"""Whether the published files of SmartEdit are complete, and belong together with those of LLaVA."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from rewardedit_jax.weights.faults import WeightFileError
from rewardedit_jax.weights.files import TensorFiles, read_json
from rewardedit_jax.weights.smartedit_configs import FileShapes

LLM_PREFIX = "model.base_model.model."  # that of peft, in SmartEdit's file
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
PROJECTOR = ("mm_projector.weight", "mm_projector.bias")
# Before <img_0>, <img_1>, ... in the rows that SmartEdit adds.
OWN_TOKENS = ("<img>", "<im_start>", "<im_end>")
# The last rows of LLaVA's vocabulary, in their order, which SmartEdit drops.
_LLAVA_TOKENS = ("<im_patch>", "<im_start>", "<im_end>")
AGAIN = (
    "It is another file, or a damaged one: download it again. Before 27 April 2024, wrong ones were published under "
    "the same name."
)
NOT_LLAVA_1_5 = (
    "SmartEdit was trained with LLaVA 1.1, whose projector is one layer over an image tower for 224 px; the weights of "
    "LLaVA 1.5 and later do not fit it."
)
# Rounding to bfloat16 changes a number by 2⁻⁹ of it at most; to float16 it changes a tiny one by 2⁻²⁵.
_ROUNDING = {"rtol": 2**-7, "atol": 2**-24}


class Adapter(Struct):
    """What matters here of peft's adapter_config.json."""

    r: Annotated[int, Meta(ge=1)]
    lora_alpha: Annotated[float, Meta(gt=0)]
    target_modules: Annotated[list[str], Meta(min_length=1)]
    lora_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0


class LlavaSettings(Struct):
    """What matters here of LLaVA's config.json."""

    hidden_size: Annotated[int, Meta(ge=1)]
    mm_projector_type: str | None = None
    mm_vision_tower: str | None = None


def check_llava(folder: Path, tensors: TensorFiles) -> tuple[LlavaSettings, int]:
    """(settings, rows of the vocabulary without LLaVA's own three). WeightFileError: it is not LLaVA 1.1."""
    settings = read_json(folder / "config.json", LlavaSettings)
    large = "336" in (settings.mm_vision_tower or "")
    if large or settings.mm_projector_type not in (None, "linear") or "model.mm_projector.0.weight" in tensors:
        found = f"the image tower {settings.mm_vision_tower}" if large else "a projector of two layers"
        raise WeightFileError(f"--llava: {folder} has {found}. {NOT_LLAVA_1_5}")
    needed = (EMBEDDINGS, HEAD, "model.norm.weight", *(f"model.{name}" for name in PROJECTOR))
    if missing := [name for name in needed if name not in tensors]:
        raise WeightFileError(
            f"--llava: {folder} lacks {', '.join(missing)}: expected LLaVA 1.1 as one model, not LLaMA, Vicuna or "
            "LLaVA's projector alone."
        )
    words = tensors.shapes[EMBEDDINGS][0] - len(_LLAVA_TOKENS)
    _check_tokens(folder / "added_tokens.json", words)
    return settings, words


def _check_tokens(file: Path, words: int) -> None:
    expected = {token: words + i for i, token in enumerate(_LLAVA_TOKENS)}
    found = read_json(file, dict[str, int]) if file.is_file() else expected
    if wrong := [token for token, number in expected.items() if found.get(token) != number]:
        raise WeightFileError(
            f"{file}: {wrong[0]} has the id {found.get(wrong[0])}: expected {expected[wrong[0]]}, as LLaVA 1.1 ends "
            f"its vocabulary of {words + len(expected)} with {', '.join(expected)}."
        )


def check_sizes(language: FileShapes, embeddings: FileShapes, qformer: int, llava: LlavaSettings, words: int) -> None:
    """The language model in SmartEdit's files against LLaVA, and the Q-Former against it.

    Args:
      qformer: width of the states that it reads.
      words: rows of LLaVA's vocabulary that SmartEdit takes over.
    """
    rows, width = (language.size(f"{LLM_PREFIX}embed_tokens.weight", axis) for axis in (0, 1))
    if width != llava.hidden_size:
        raise WeightFileError(
            f"{language.file} has width {width}, --llava has {llava.hidden_size}: give SmartEdit and LLaVA of one "
            "size, 7B with 7B or 13B with 13B."
        )
    if rows <= words + len(OWN_TOKENS):
        raise WeightFileError(
            f"{language.file} has a vocabulary of {rows}, --llava one of {words}: expected {words}, {len(OWN_TOKENS)} "
            "and the image tokens, so one of the two is another version."
        )
    if qformer != width:
        raise WeightFileError(f"{embeddings.file}: the Q-Former reads {qformer} channels of {width}.")


def check_interaction(file: Path, reads: tuple[int, int], given: tuple[int, int]) -> None:
    """The widths of image features and Q-Former's output that the interaction module reads, against those it gets."""
    if reads != given:
        raise WeightFileError(
            f"{file} reads {reads[0]} channels of the image and {reads[1]} of the Q-Former, which have {given[0]} and "
            f"{given[1]}: it belongs to another model."
        )


def check_same_llava(folder: Path, llava: TensorFiles, own: Mapping[str, TensorFiles]) -> None:
    """Frozen weights in files of SmartEdit (own name → file) equal LLaVA's, apart from their rounding.

    The delta files of LLaVA have the projector itself, but differences to LLaMA in all else.
    """
    for name, files in own.items():
        theirs, ours = (
            np.asarray(tensors[key], np.float32)
            for tensors, key in ((llava, f"model.{name.removeprefix(LLM_PREFIX)}"), (files, name))
        )
        if theirs.shape != ours.shape or not np.allclose(theirs, ours, **_ROUNDING):
            raise WeightFileError(
                f"--llava: model.{name.removeprefix(LLM_PREFIX)} in {folder} differs from {name} in "
                f"{files.file_of(name)}, where SmartEdit has LLaVA's unchanged: it is another version of LLaVA, or its "
                "delta weights, which are to be applied to LLaMA first."
            )
