"""Edit records → batches of images and of what a base editor reads of the requests, in the order of `order.py`."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import flax.struct
import numpy as np
from absl import logging
from jaxtyping import Bool, UInt8
from PIL import Image

from rewardedit_jax.data.images import square
from rewardedit_jax.data.order import check_all_or_none, ordered_batches
from rewardedit_jax.data.records import EditRecord, InstructionSource, Source
from rewardedit_jax.listing import count_noun
from rewardedit_jax.reward import Reward

# Source images, instructions and rewards of a batch → arrays with leading axis b, as the base editor needs them.
Read = Callable[[Sequence[UInt8[np.ndarray, "h w 3"]], Sequence[str], Sequence[Reward | None]], Any]

# Also "left-hand" and "the left of"; "copyright" and "leftover" are other words.
_SIDES = re.compile(r"\b(left|right)(most|wards?|hand(ed)?)?\b", re.IGNORECASE)


@flax.struct.dataclass
class EditBatch:
    """One host's part of a batch. Leaves are NumPy arrays here, device arrays in the step."""

    source: Any  # uint8[b, H, W, 3]: image before the edit, 0..255
    edited: Any  # uint8[b, H, W, 3]: image after the edit, the training target, 0..255
    inputs: Any  # what the base editor reads of the requests: its own struct of arrays, leading axis b


def edit_batches(
    source: Source, read: Read, *, resolution: int, flip: bool, seed: int, skip_bad: bool, **order: Any
) -> Iterator[EditBatch]:
    """This host's part of the batches of steps `start`, `start + 1`, ...

    Args:
      read: makes `EditBatch.inputs`. Threads call it at the same time.
      resolution: side of the square that images are resized to, pixels.
      flip: whether pairs are mirrored, both images or neither, with probability 1/2; see `warn_of_sides`.
      seed, skip_bad, order: as in `ordered_batches`. Flips follow from the seed too.
    Raises:
      ValueError: as `ordered_batches`; the iterator also if a record has scores without feedback or the reverse, or if
        only some records of a batch have a reward.
    """

    def prepare(record: EditRecord, place: int) -> EditRecord:
        return resize_edit(record, resolution, mirror=flip and bool(draw_mirrors(seed, place, 1)[0]))

    return ordered_batches(source, prepare, partial(collate_edits, read=read), seed=seed, skip_bad=skip_bad, **order)


def warn_of_sides(source: Source) -> None:
    """Logs how many instructions of an `InstructionSource` say left or right, which a flip of the images exchanges."""
    instructions = source.instructions() if isinstance(source, InstructionSource) else []
    if found := [text for text in instructions if isinstance(text, str) and _SIDES.search(text)]:
        counts = len(found), len(instructions), count_noun(len(source), "record")
        advice = "A flip does not change the instruction: set data.flip=False, unless the words mean something else."
        logging.warning("%d of the %d instructions read (%s) say left or right: %r. %s", *counts, found[0], advice)


def draw_mirrors(seed: int, place: int, count: int) -> Bool[np.ndarray, " {count}"]:
    """Whether each of `count` examples, from a place in line on, is mirrored, with probability 1/2."""
    # A generator that counts: each place has its own four numbers, wherever the block begins.
    numbers = np.random.Philox(key=seed, counter=place).random_raw(4 * count)
    return numbers[::4] >> np.uint64(63) == 1


def resize_edit(record: EditRecord, resolution: int, mirror: bool) -> EditRecord:
    """The record with both images resized to squares, then mirrored or not."""
    source, edited = (_picture(image, resolution, mirror) for image in (record.source, record.edited))
    return replace(record, source=source, edited=edited)


def _picture(
    image: UInt8[np.ndarray, "h w 3"], resolution: int, mirror: bool
) -> UInt8[np.ndarray, "{resolution} {resolution} 3"]:
    fits = image.shape[:2] == (resolution, resolution)  # Pillow would copy it
    if fits and not mirror:
        return image
    picture = Image.fromarray(image) if fits else square(Image.fromarray(image), resolution)
    # By Pillow: to stack arrays with a negative stride takes ten times as long.
    return np.asarray(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else picture)


def collate_edits(records: Sequence[EditRecord], *, read: Read) -> EditBatch:
    """The batch of records of one size. Texts are read a batch at a time: tokenizers are faster on many."""
    rewards = [reward_of(record) for record in records]
    named = zip((f"record {record.key}" for record in records), rewards, strict=True)
    check_all_or_none("reward", dict(named))
    sources, edited = ([getattr(record, name) for record in records] for name in ("source", "edited"))
    inputs = read(sources, [record.instruction for record in records], rewards)
    return EditBatch(np.stack(sources), np.stack(edited), inputs)


def reward_of(record: EditRecord) -> Reward | None:
    """The reward of a record, None if it has none. Raises ValueError for scores without feedback or the reverse."""
    if (record.scores is None) != (record.feedback is None):
        missing, present = ("scores", "feedback") if record.scores is None else ("feedback", "scores")
        raise ValueError(f"record {record.key} has {present} but no {missing}; expected both or neither.")
    return None if record.scores is None else Reward(*record.scores.tolist(), feedback=record.feedback)
