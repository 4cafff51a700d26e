"""Triplets → the arrays of one scoring pass, of few static shapes.

The prompts of an edit share system turn, images and opening words. A row of the batch is that common prefix followed by
the rest of each prompt, `[prefix | rest 1 | rest 2]`; attention lets a rest see the prefix and itself, so that one pass
gives the numbers of a pass per prompt (fact sheet 2.8). Images are encoded apart (`stack_images`), and rows point to
their features, so that an image that occurs several times is encoded once.

Items are prepared one by one (`prepare_item`, where everything that is wrong with an item is raised) and then packed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32
from PIL import Image

from rewardedit_jax.data.images import ImageError
from rewardedit_jax.models.edit_reward import PackedPrompts
from rewardedit_jax.models.vision_plan import pad_patches
from rewardedit_jax.scoring.images import AREA, MERGE, PATCH_WIDTH, PreparedImage, prepare_image, to_patches
from rewardedit_jax.scoring.prompts import PERSPECTIVES, QWEN_SYSTEM, chat_prompt
from rewardedit_jax.scoring.tokenizer import ScorerTokenizer

_LEAST_MULTIPLE, _MOST_MULTIPLE = 4, 128  # what lengths of rows and images are padded to multiples of


@dataclass(frozen=True, eq=False)
class ScorerItem:
    """One edit, ready to be packed."""

    source: PreparedImage
    edited: PreparedImage
    instruction: str
    prompts: tuple[Int32[np.ndarray, " _"], ...]  # ids up to the reward token, in the order of PERSPECTIVES
    image_positions: Int32[np.ndarray, " m"]  # of the image tokens, source's first; the same in all prompts


def prepare_item(
    source: str | Path | Image.Image | PreparedImage,
    edited: str | Path | Image.Image | PreparedImage,
    instruction: str,
    tokenizer: ScorerTokenizer,
    *,
    system: str = QWEN_SYSTEM,
    area: int = AREA,
) -> ScorerItem:
    """Everything about one edit that needs no other: images resized, prompts tokenized.

    Args:
      source, edited: paths or PIL images; or prepared ones, which spares work where many candidates have one source.
      system: text of the system turn (`chat_prompt`).
      area: pixels that an image is resized to; published weights know only the default.
    Raises:
      ImageError: an image cannot be read or is too narrow; says which.
      ValueError: an instruction that is empty or contains tokens of the scorer.
    """
    images = prepared(source, "source", area), prepared(edited, "edited", area)
    prompts = [tokenizer.encode(chat_prompt(instruction, perspective, system)) for perspective in PERSPECTIVES]
    prompts = tuple(_with_image_tokens(ids, images, tokenizer.image_id) for ids in prompts)
    positions = np.flatnonzero(prompts[0] == tokenizer.image_id).astype(np.int32)
    return ScorerItem(*images, instruction, prompts, positions)


def prepared(image: str | Path | Image.Image | PreparedImage, role: str, area: int) -> PreparedImage:
    """`prepare_image`, unless it was before. Raises ImageError, which says in which `role` the image is."""
    if isinstance(image, PreparedImage):
        return image
    try:
        return prepare_image(image, area)
    except ImageError as error:
        raise ImageError(f"{role}: {error}") from error


def pack_items(
    items: Sequence[ScorerItem],
    first_slot: Callable[[PreparedImage], int],
    batch_size: int,
    *,
    perspectives: Sequence[str] = PERSPECTIVES,
) -> PackedPrompts:
    """A row for each item, in their order, padded to a size that few batches differ in.

    Args:
      first_slot: where among the flattened features of all images those of an image begin.
      batch_size: rows; those behind the items are padding.
      perspectives: the prompts to pack into each row; a single one gives that prompt whole, as published code runs it.
    Raises:
      ValueError: no items, or more than the batch size.
    """
    if not 0 < len(items) <= batch_size:
        raise ValueError(f"{len(items)} items do not go into a batch of {batch_size}.")
    chosen = [PERSPECTIVES.index(perspective) for perspective in perspectives]
    rows = [
        pack_row([item.prompts[i] for i in chosen], item.image_positions, _slots(item, first_slot)) for item in items
    ]
    return stack_rows(rows, batch_size)


class PackedRow(NamedTuple):
    """One row of `PackedPrompts`, without padding."""

    ids: Int32[np.ndarray, " l"]
    positions: Int32[np.ndarray, " l"]
    segments: Int32[np.ndarray, " l"]
    image_slots: Int32[np.ndarray, " l"]
    reward_index: Int32[np.ndarray, " k"]


def pack_row(
    prompts: Sequence[Int32[np.ndarray, " _"]],
    image_positions: Int32[np.ndarray, " m"],
    slots: Int32[np.ndarray, " m"],
) -> PackedRow:
    """Common prefix once, then the rest of each prompt; a single prompt is all prefix.

    Args:
      prompts: ids of each prompt, ending with the reward token.
      image_positions: where the image tokens are; all of them in the common prefix.
      slots: rows of the flattened image features that belong there.
    """
    prefix = _common_prefix(prompts)
    rests = np.array([len(ids) - prefix for ids in prompts])
    image_slots = np.full(prefix + rests.sum(), -1, np.int32)
    image_slots[image_positions] = slots
    return PackedRow(
        np.concatenate([prompts[0][:prefix], *(ids[prefix:] for ids in prompts)]),
        np.concatenate([np.arange(prefix), *(np.arange(prefix, len(ids)) for ids in prompts)]).astype(np.int32),
        np.repeat(np.arange(1 + len(prompts)), [prefix, *rests]).astype(np.int32),
        image_slots,
        (prefix + np.cumsum(rests) - 1).astype(np.int32),
    )


def stack_rows(rows: Sequence[PackedRow], batch_size: int, row_multiple: int | None = None) -> PackedPrompts:
    """Rows side by side, padded to a common length (`padded_length`) and to the batch size."""
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
        segments=stacked("segments", length, -1),
        image_slots=stacked("image_slots", length, -1),
        reward_index=stacked("reward_index", len(rows[0].reward_index), 0),
    )


def _with_image_tokens(
    ids: Int32[np.ndarray, " _"], images: Sequence[PreparedImage], image_id: int
) -> Int32[np.ndarray, " _"]:
    """Each image's one token repeated for as many tokens as the image has."""
    repeats = np.ones(len(ids), int)
    repeats[ids == image_id] = [image.n_tokens for image in images]
    return np.repeat(ids, repeats)


def _slots(item: ScorerItem, first_slot: Callable[[PreparedImage], int]) -> Int32[np.ndarray, " m"]:
    starts_and_lengths = [(first_slot(image), image.n_tokens) for image in (item.source, item.edited)]
    return np.concatenate([np.arange(start, start + n, dtype=np.int32) for start, n in starts_and_lengths])


def _common_prefix(prompts: Sequence[Int32[np.ndarray, " _"]]) -> int:
    shortest = min(map(len, prompts))
    same = np.all([ids[:shortest] == prompts[0][:shortest] for ids in prompts], axis=0)
    return shortest if same.all() else int(same.argmin())


def stack_images(
    images: Sequence[PreparedImage], n: int
) -> tuple[Float32[np.ndarray, "n P 1176"], Int32[np.ndarray, "n 3"]]:
    """Patches of images, padded with zeros to a common number (`padded_length`), and the grids that they form.

    Behind the images come padding images, up to `n`: the smallest that there are, all zeros.
    """
    padding = n - len(images)
    grids = np.array([image.grid for image in images] + [(1, MERGE, MERGE)] * padding, np.int32)
    patches = [to_patches(image.pixels) for image in images]
    patches.append(np.zeros((padding * MERGE**2, PATCH_WIDTH), np.float32))
    width = padded_length(max(image.n_patches for image in images))
    return pad_patches(np.concatenate(patches), grids, width), grids


def feature_width(images: Iterable[PreparedImage]) -> int:
    """Features of the largest of these images, padded as `stack_images` pads its patches."""
    return padded_length(max(image.n_patches for image in images)) // MERGE**2


def padded_length(length: int, multiple: int | None = None) -> int:
    """The next multiple; None: of an eighth of the power of two that is not below `length`, from 4 to 128.

    So few lengths occur, and little is added to any. Images of the usual shapes all have 1024 or 1152 patches at the
    published area (936 to 1144 before), and only extreme aspect ratios more.
    """
    eighth = 2 ** (length - 1).bit_length() // 8
    return round_up(length, multiple or min(max(eighth, _LEAST_MULTIPLE), _MOST_MULTIPLE))


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
