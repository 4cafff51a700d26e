"""The items that metrics are measured on: a list of files, and their pictures brought to one size."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rewardedit_jax.arguments import is_text
from rewardedit_jax.data.images import ImageError, read_image
from rewardedit_jax.data.paths import inside
from rewardedit_jax.data.prefetch import prefetch_map
from rewardedit_jax.data.records import Instruction
from rewardedit_jax.data.runs import read_list

_EXAMPLE = '{"source": "a.png", "edited": "b.png", "target": null, "instruction": "make it snow"}'


class _Line(msgspec.Struct):
    """A line of a list."""

    source: str
    edited: str
    instruction: Instruction
    target: str | None = None
    key: str | None = None
    source_caption: Instruction | None = None
    edited_caption: Instruction | None = None


@dataclass(frozen=True)
class MetricItem:
    """An edit to measure. `None`: the metrics that need it leave the item out."""

    key: str  # unique
    source: Path
    edited: Path
    target: Path | None  # the edited image that is right
    instruction: str
    source_caption: str | None = None  # says what the source shows
    edited_caption: str | None = None  # says what the edited image should show

    @property
    def text(self) -> str:
        """What CLIP-T compares the edited image with."""
        return self.edited_caption or self.instruction


def read_items(listing: Path, allow_outside: bool = False) -> tuple[list[MetricItem], list[str]]:
    """The items of a .jsonl file, and a sentence for each bad line.

    Args:
      listing: paths in it are relative to its folder, and stay within it unless `allow_outside` is set. Without a key,
        a line has its number (from 0) and the path of its edit.
    """
    folder = partial(inside, listing.parent, allow_outside=allow_outside)

    def parse(number: int, line: _Line) -> list[MetricItem]:
        for text in filter(None, (line.instruction, line.source_caption, line.edited_caption)):
            if not is_text(text):
                raise ValueError(f"{text!r}: expected a text without lone surrogates, which no tokenizer takes")
        paths = folder(line.source), folder(line.edited), None if line.target is None else folder(line.target)
        key = f"{number}:{line.edited}" if line.key is None else line.key
        return [MetricItem(key, *paths, line.instruction, line.source_caption, line.edited_caption)]

    items, faults = read_list(listing, _Line, parse, _EXAMPLE)
    check_keys(items)
    return items, faults


def check_keys(items: Sequence[MetricItem]) -> None:
    """Raises ValueError if a key is that of two items: one would take the place of the other."""
    if repeated := [key for key, count in Counter(item.key for item in items).items() if count > 1]:
        raise ValueError(
            f"{len(repeated)} keys are those of several items, such as {repeated[0]!r}: give each its own."
        )


@dataclass(frozen=True, eq=False)
class Pair:
    """The edited picture of an item, resized where the reference has another size, and its reference."""

    key: str
    against: str  # "target" or "source"
    edited: UInt8[np.ndarray, "h w 3"]
    reference: UInt8[np.ndarray, "h w 3"]
    resized_from: tuple[int, int] | None  # (width, height) of the edited picture, if it was resized

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.reference.shape[1], self.reference.shape[0]


@dataclass(frozen=True, eq=False)
class ItemPictures:
    """The pictures of an item: a pair with its target where it has one, and a pair with its source."""

    item: MetricItem
    pairs: list[Pair]
    grayscale: bool  # whether the edited picture has no colour


def read_pictures(items: Sequence[MetricItem], ahead: int) -> Iterator[ItemPictures | ImageError]:
    """The pictures of each item, or why one of them cannot be read; `ahead` items are read before they are needed."""
    for pictures in prefetch_map(_read, ((item,) for item in items), ahead):
        try:
            yield pictures.result()
        except ImageError as error:
            yield error


def _read(item: MetricItem) -> ItemPictures:
    edited = read_image(item.edited)
    references = {"target": item.target, "source": item.source}
    pairs = [_pair(item.key, name, edited, read_image(path)) for name, path in references.items() if path]
    return ItemPictures(item, pairs, _is_grayscale(np.asarray(edited)))


def _pair(key: str, against: str, edited: Image.Image, reference: Image.Image) -> Pair:
    odd = edited.size if edited.size != reference.size else None
    fitted = edited.resize(reference.size, Image.Resampling.BICUBIC) if odd else edited
    return Pair(key, against, np.asarray(fitted), np.asarray(reference), odd)


def _is_grayscale(image: UInt8[np.ndarray, "h w 3"]) -> bool:
    return bool((image == image[..., :1]).all())
