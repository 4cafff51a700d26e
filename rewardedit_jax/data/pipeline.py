"""Edit records → batches of images and of what a base editor reads of the requests, in the order of `order.py`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.struct
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rewardedit_jax.data.images import square
from rewardedit_jax.data.order import ordered_batches
from rewardedit_jax.data.records import EditRecord, Source
from rewardedit_jax.reward import Reward

# Source images, instructions and rewards of a batch → arrays with leading axis b, as the base editor needs them.
Read = Callable[[Sequence[UInt8[np.ndarray, "h w 3"]], Sequence[str], Sequence[Reward | None]], Any]


@flax.struct.dataclass
class EditBatch:
    """One host's part of a batch. Leaves are NumPy arrays here, device arrays in the step."""

    source: Any  # uint8[b, H, W, 3]: image before the edit, 0..255
    edited: Any  # uint8[b, H, W, 3]: image after the edit, the training target, 0..255
    inputs: Any  # what the base editor reads of the requests: its own struct of arrays, leading axis b


def edit_batches(
    source: Source, read: Read, *, resolution: int, flip: bool, skip_bad: bool, **order: Any
) -> Iterator[EditBatch]:
    """This host's part of the batches of steps `start`, `start + 1`, ...

    Args:
      read: makes `EditBatch.inputs`. Threads call it at the same time.
      resolution: side of the square that images are resized to, pixels.
      flip: whether pairs are mirrored, both images or neither, with probability 1/2. (Instructions may speak of left
        and right, which a flip exchanges.)
      skip_bad, order: as in `ordered_batches`. Flips follow from the seed too.
    Raises:
      ValueError: as `ordered_batches`; the iterator also if a record has scores without feedback or the reverse, or if
        only some records of a batch have a reward.
    """
    return ordered_batches(source, _Prepare(resolution, flip), _Collate(read), skip_bad=skip_bad, **order)


@dataclass(frozen=True)
class _Prepare:
    """Record → record with both images at the size of the batch, mirrored or not."""

    resolution: int
    flip: bool

    def __call__(self, record: EditRecord, rng: np.random.Generator) -> EditRecord:
        # Nothing is drawn without flips: their absence must not depend on the generator, nor it on them.
        mirrored = self.flip and rng.random() < 0.5
        source, edited = (self._resize(image, mirrored) for image in (record.source, record.edited))
        return replace(record, source=source, edited=edited)

    def _resize(self, image: UInt8[np.ndarray, "h w 3"], mirrored: bool) -> UInt8[np.ndarray, "s s 3"]:
        resized = np.asarray(square(Image.fromarray(image), self.resolution))
        return resized[:, ::-1] if mirrored else resized


@dataclass(frozen=True)
class _Collate:
    """Records of one size → batch. Texts are read here, a batch at a time: tokenizers are faster on many."""

    read: Read

    def __call__(self, records: Sequence[EditRecord]) -> EditBatch:
        rewards = [_reward(record) for record in records]
        _check_alike(records, rewards)
        sources, edited = ([getattr(record, name) for record in records] for name in ("source", "edited"))
        inputs = self.read(sources, [record.instruction for record in records], rewards)
        return EditBatch(np.stack(sources), np.stack(edited), inputs)


def _reward(record: EditRecord) -> Reward | None:
    if (record.scores is None) != (record.feedback is None):
        missing, present = ("scores", "feedback") if record.scores is None else ("feedback", "scores")
        raise ValueError(f"record {record.key} has {present} but no {missing}; expected both or neither.")
    return None if record.scores is None else Reward(*record.scores.tolist(), feedback=record.feedback)


def _check_alike(records: Sequence[EditRecord], rewards: Sequence[Reward | None]) -> None:
    """Raises ValueError if only some records have a reward: an invented one for the others would be trained on."""
    without = [record.key for record, reward in zip(records, rewards, strict=True) if reward is None]
    if without and len(without) < len(records):
        raise ValueError(f"record {without[0]} has no reward, others of its batch have one; expected all or none.")
