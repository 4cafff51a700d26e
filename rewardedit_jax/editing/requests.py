"""What one edit is asked for: images, instructions and rewards brought to one list, and batched by size."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from rewardedit_jax.data.images import fit, read_image, to_unit
from rewardedit_jax.editing.reward import Reward


@dataclass(frozen=True)
class EditRequest:
    """One edit to make."""

    source: Float[np.ndarray, "h w 3"]  # in [-1, 1], of a size that the networks take
    instruction: str
    reward: Reward | None


def make_requests(
    image: Any,
    instruction: str | Sequence[str],
    reward: Reward | Sequence[Reward] | None,
    resolution: int | None,
    multiple: int,
) -> list[EditRequest]:
    """Pair images, instructions and rewards; a single one of them goes with all of the others."""
    images, instructions, rewards = _as_list(image), _as_list(instruction), _as_list(reward)
    n = max(len(images), len(instructions), len(rewards))
    for what, values in (("images", images), ("instructions", instructions), ("rewards", rewards)):
        if len(values) not in (1, n):
            raise ValueError(f"{len(values)} {what} do not go with {n} edits: give one, or one for each.")
    empty = [i for i, text in enumerate(instructions) if not text.strip()]
    if empty:
        raise ValueError(f"the instruction of edit {empty[0]} is empty; say what to change.")
    sources = [_prepare(picture, resolution, multiple) for picture in images]
    at = lambda values, i: values[i % len(values)]  # noqa: E731
    return [EditRequest(at(sources, i), at(instructions, i), at(rewards, i)) for i in range(n)]


def in_batches(requests: Sequence[EditRequest], batch_size: int) -> Iterator[list[int]]:
    """Indices of requests of one size, `batch_size` at a time.

    The last batch of a size is filled up with its last index once a full one went before, so that each size is compiled once.
    """
    of_size = defaultdict(list)
    for i, request in enumerate(requests):
        of_size[request.source.shape].append(i)
    for indices in of_size.values():
        size = min(batch_size, len(indices))
        for start in range(0, len(indices), size):
            chunk = indices[start : start + size]
            yield chunk + chunk[-1:] * (size - len(chunk))


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _prepare(image: Any, resolution: int | None, multiple: int) -> Float[np.ndarray, "h w 3"]:
    if isinstance(image, (str, Path)):
        image = read_image(image)
    elif isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image = image.convert("RGB") if resolution is None else fit(image.convert("RGB"), resolution, multiple)
    if image.width % multiple or image.height % multiple:
        raise ValueError(
            f"the image is {image.width}×{image.height}, but sides must be multiples of {multiple} for these networks; "
            f"give a resolution to have it resized."
        )
    return to_unit(np.asarray(image))
