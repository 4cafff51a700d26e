"""Edit requests: images, instructions and rewards brought to one list, and batched by image size."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rewardedit_jax.arguments import as_integer, is_text, shown
from rewardedit_jax.data.image_arguments import array_image, image_list
from rewardedit_jax.data.images import ImageError, check_sides, fit, read_image, upright_rgb
from rewardedit_jax.reward import Reward

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class EditRequest:
    """One edit to make."""

    source: UInt8[np.ndarray, "h w 3"]  # of a size that the networks take
    instruction: str
    reward: Reward | None


def make_requests(
    image: Any,
    instruction: str | Sequence[str],
    reward: Reward | Sequence[Reward | None] | None,
    prepare: Callable[[Any], Image.Image],
) -> list[EditRequest]:
    """Images, instructions and rewards in pairs; a single one of them goes with all of the others.

    Args:
      prepare: brings an image to the size that it is edited at.
    Raises:
      ValueError: an image that `prepare` refuses, lists of different lengths, or an instruction that is not a text.
    """
    images = image_list(image)
    several = images is not None
    images, instructions, rewards = images if several else [image], _as_list(instruction), _as_list(reward)
    n = max(1, len(images), len(instructions), len(rewards))
    for what, values in (("images", images), ("instructions", instructions), ("rewards", rewards)):
        if len(values) not in (1, n):
            raise ValueError(f"{len(values)} {what} for {n} edits: give one, or one for each edit.")
    _check_instructions(instructions)
    # Each image is prepared once, also if many instructions share it.
    sources = [_prepared(prepare, picture, f"image {i}: " if several else "") for i, picture in enumerate(images)]
    return [EditRequest(*(values[i % len(values)] for values in (sources, instructions, rewards))) for i in range(n)]


def prepare_image(image: Any, resolution: int | None, multiple: int) -> Image.Image:
    """Anything that `Editor.edit` takes as an image, as upright RGB of the size that it is edited at.

    Raises:
      ImageError: it is not an image, cannot be read, or would have a side longer than `images.MAX_SIDE`.
      ValueError: without a resolution, sides that are not multiples of `multiple`.
    """
    image = _open(image)
    if not min(image.size):
        raise ImageError(f"the image is {image.width}×{image.height} pixels, which is empty.")
    if resolution is not None:
        return fit(image, resolution, multiple)
    if image.width % multiple or image.height % multiple:
        raise ValueError(
            f"the image is {image.width}×{image.height}; its sides must be multiples of {multiple}. Give a "
            "resolution, and it is resized."
        )
    check_sides(*image.size, "the image is ")
    return image


def in_batches(items: Iterable[Item], size_of: Callable[[Item], Hashable], batch_size: int) -> Iterator[list[Item]]:
    """Batches of `batch_size` items of equal size.

    The last batch of a size is smaller. If a full batch of this size came before, it is filled up with repetitions of
    its last item instead, so that each size is compiled once.
    """
    batch_size = as_integer("batch_size", batch_size, 1)  # before an image is read
    waiting, compiled = defaultdict(list), set()
    for item in items:
        size = size_of(item)
        waiting[size].append(item)
        # Full batches leave at once, so that few images wait in memory.
        if len(waiting[size]) == batch_size:
            compiled.add(size)
            yield waiting.pop(size)
    for size, rest in waiting.items():
        yield rest + rest[-1:] * (batch_size - len(rest)) if size in compiled else rest


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _prepared(prepare: Callable[[Any], Image.Image], image: Any, name: str) -> UInt8[np.ndarray, "h w 3"]:
    try:
        return np.asarray(prepare(image))
    except ValueError as error:  # the type is kept: callers may catch ImageError
        raise type(error)(f"{name}{error}") from error


def _check_instructions(instructions: list) -> None:
    for i, text in enumerate(instructions):
        if not is_text(text) or not text.strip():
            raise ValueError(f"the instruction of edit {i} is {shown(text)}; expected a text that says what to change.")


def _open(image: Any) -> Image.Image:
    if isinstance(image, (str, Path)):
        return read_image(image)
    return upright_rgb(image if isinstance(image, Image.Image) else array_image(image))
