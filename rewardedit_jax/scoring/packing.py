"""Packing: the arrays of one forward pass over many edits, with few static shapes.

EditReward runs the model once per prompt. The prompts of an edit share the system turn, the images and the first words.
Here a row is this common prefix followed by the rest of each prompt, `[prefix | rest 1 | rest 2]`. Attention is causal
and lets each rest see the prefix and itself, so one pass gives the outputs of a pass per prompt. Images are encoded
separately (`stack_images`), and rows point to their features, so that an image of several edits is encoded once.

`prepare_item` prepares one edit and raises everything that is wrong with it; `pack_items` packs prepared edits.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from rewardedit_jax.data.images import ImageError
from rewardedit_jax.models.edit_reward import PackedPrompts
from rewardedit_jax.models.vision_plan import pad_patches
from rewardedit_jax.scoring.images import AREA, MERGE, PATCH_VALUES, PreparedImage, cut_patches, prepare_scorer_image
from rewardedit_jax.scoring.prompts import PERSPECTIVES, QWEN_SYSTEM, chat_prompt
from rewardedit_jax.scoring.tokenizer import ScorerTokenizer

_MIN_MULTIPLE, _MAX_MULTIPLE = 4, 128  # lengths of rows and images are padded to multiples between these


@dataclass(frozen=True, eq=False)
class ScorerItem:
    """One prepared edit."""

    source: PreparedImage
    edited: PreparedImage
    instruction: str
    prompts: tuple[Int32[np.ndarray, " _"], ...]  # token ids up to the reward token, in the order of PERSPECTIVES
    image_positions: Int32[np.ndarray, " m"]  # of the image tokens, the source's first; equal in all prompts


def prepare_item(
    source: Any,
    edited: Any,
    instruction: str,
    tokenizer: ScorerTokenizer,
    *,
    system: str = QWEN_SYSTEM,
    area: int = AREA,
) -> ScorerItem:
    """One edit with its images resized and its prompts tokenized.

    Args:
      source, edited: paths, PIL images or uint8 arrays, or prepared images, for a source with many edits.
      system: text of the system turn (`chat_prompt`).
      area: pixels that images are resized to; published weights were trained with the default only.
    """
    images = prepared(source, "source", area), prepared(edited, "edited", area)
    tokens = [image.n_tokens for image in images]
    return ScorerItem(*images, instruction, *tokenize(instruction, tokens, tokenizer, system))


def prepared(image: Any, role: str, area: int) -> PreparedImage:
    """`prepare_scorer_image` of an image that is not prepared yet. An ImageError names its `role`."""
    if isinstance(image, PreparedImage):
        return image
    try:
        return prepare_scorer_image(image, area)
    except ImageError as error:
        raise ImageError(f"{role}: {error}") from error


def tokenize(
    instruction: str, image_tokens: Sequence[int], tokenizer: ScorerTokenizer, system: str = QWEN_SYSTEM
) -> tuple[tuple[Int32[np.ndarray, " _"], ...], Int32[np.ndarray, " m"]]:
    """The token ids of the prompt of each perspective, and the positions of the image tokens, equal in all prompts.

    Args:
      image_tokens: numbers of tokens of the source and of the edited image.
    """
    prompts = [tokenizer.encode(chat_prompt(instruction, perspective, system)) for perspective in PERSPECTIVES]
    # The tokenizer sees one image token per image; the model expects one per feature.
    prompts = tuple(_with_image_tokens(ids, image_tokens, tokenizer.image_id) for ids in prompts)
    return prompts, np.flatnonzero(prompts[0] == tokenizer.image_id).astype(np.int32)


def pack_items(
    items: Sequence[ScorerItem],
    first_slot: Callable[[PreparedImage], int],
    batch_size: int,
    *,
    perspectives: Sequence[str] = PERSPECTIVES,
) -> PackedPrompts:
    """One row per item, in their order, with padding (see `stack_rows`).

    Args:
      first_slot: row of an image's first feature in the flattened features of all images.
      batch_size: number of rows; rows after the last item are padding.
      perspectives: the prompts in each row. One perspective gives the complete prompt, as published code runs it.
    """
    if not 0 < len(items) <= batch_size:
        raise ValueError(f"{len(items)} items: expected 1 to {batch_size}, the batch size.")
    rows = [pack_item(item, (first_slot(item.source), first_slot(item.edited)), perspectives) for item in items]
    return stack_rows(rows, batch_size)


def pack_item(item: ScorerItem, starts: tuple[int, int], perspectives: Sequence[str] = PERSPECTIVES) -> PackedPrompts:
    """The row of an edit; `starts` are the rows of the first feature of its source and of its edited image."""
    prompts = [item.prompts[PERSPECTIVES.index(perspective)] for perspective in perspectives]
    images = zip(starts, (item.source, item.edited), strict=True)
    slots = [np.arange(start, start + image.n_tokens, dtype=np.int32) for start, image in images]
    return pack_row(prompts, item.image_positions, np.concatenate(slots))


def pack_row(
    prompts: Sequence[Int32[np.ndarray, " _"]],
    image_positions: Int32[np.ndarray, " m"],
    slots: Int32[np.ndarray, " m"],
) -> PackedPrompts:
    """One row, without batch axis and padding: the common prefix of the prompts, then the rest of each.

    Args:
      prompts: token ids of each prompt, the last of which is the reward token.
      image_positions: positions of the image tokens, all of them in the common prefix.
      slots: rows of the flattened image features, one for each image token.
    """
    # Published prompts have about 950 tokens, 550 of which are shared: a row of two has about 1,330.
    prefix = _common_prefix(prompts)
    rests = np.array([len(ids) - prefix for ids in prompts])
    image_slots = np.full(prefix + rests.sum(), -1, np.int32)
    image_slots[image_positions] = slots
    return PackedPrompts(
        np.concatenate([prompts[0][:prefix], *(ids[prefix:] for ids in prompts)]),
        # Each rest continues the positions of the prefix, as if the other rests were not there.
        np.concatenate([np.arange(prefix), *(np.arange(prefix, len(ids)) for ids in prompts)]).astype(np.int32),
        np.repeat(np.arange(1 + len(prompts)), [prefix, *rests]).astype(np.int32),
        image_slots,
        (prefix + np.cumsum(rests) - 1).astype(np.int32),  # the last token of each rest is the reward token
    )


def stack_rows(rows: Sequence[PackedPrompts], batch_size: int, row_multiple: int | None = None) -> PackedPrompts:
    """A batch of the rows, padded to a common length (`padded_length`) and to the batch size."""
    length = padded_length(max(len(row.ids) for row in rows), row_multiple)

    def stacked(name: str, length: int, padding: int) -> Int32[np.ndarray, "b _"]:
        values = np.full((batch_size, length), padding, np.int32)
        for row, out in zip(rows, values, strict=False):
            field = getattr(row, name)
            out[: len(field)] = field
        return values

    return PackedPrompts(
        ids=stacked("ids", length, 0),
        positions=stacked("positions", length, 0),
        segments=stacked("segments", length, -1),  # no token attends to segment -1
        image_slots=stacked("image_slots", length, -1),  # -1: not an image token
        reward_index=stacked("reward_index", len(rows[0].reward_index), 0),
    )


def _with_image_tokens(ids: Int32[np.ndarray, " _"], tokens: Sequence[int], image_id: int) -> Int32[np.ndarray, " _"]:
    """`ids` with the single image token of each image repeated as often as the image has `tokens`."""
    repeats = np.ones(len(ids), int)
    repeats[ids == image_id] = tokens
    return np.repeat(ids, repeats)


def _common_prefix(prompts: Sequence[Int32[np.ndarray, " _"]]) -> int:
    # A single prompt is all prefix.
    shortest = min(map(len, prompts))
    same = np.all([ids[:shortest] == prompts[0][:shortest] for ids in prompts], axis=0)
    return shortest if same.all() else int(same.argmin())


def stack_images(
    images: Sequence[PreparedImage], n: int
) -> tuple[UInt8[np.ndarray, "n P 588"], Int32[np.ndarray, "n 3"]]:
    """Cut patches of images, padded with zeros to a common number (`padded_length`), and the grids of the images.

    Padding images of zeros, of the smallest possible grid, follow up to `n` images.
    """
    padding = n - len(images)
    grids = np.array([image.grid for image in images] + [(1, MERGE, MERGE)] * padding, np.int32)
    patches = [cut_patches(image.pixels) for image in images]
    patches.append(np.zeros((padding * MERGE**2, PATCH_VALUES), np.uint8))
    width = padded_length(max(image.n_patches for image in images))
    return pad_patches(np.concatenate(patches), grids, width), grids


def feature_width(images: Iterable[PreparedImage]) -> int:
    """Features of the largest image, with the padding of `stack_images`."""
    return padded_length(max(image.n_patches for image in images)) // MERGE**2


def padded_length(length: int, multiple: int | None = None) -> int:
    """`length` rounded up to `multiple`, by default to one that grows with it: few lengths occur, with little padding.

    At the published area, images of common aspect ratios have 936 to 1144 patches, which become 1024 or 1152.
    """
    # An eighth of the next power of two: up to 1024, there are 4 lengths between two powers of two.
    eighth = 2 ** (length - 1).bit_length() // 8
    return round_up(length, multiple or min(max(eighth, _MIN_MULTIPLE), _MAX_MULTIPLE))


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple
