"""Edit records → batches, TEMP."""

from typing import Any, NamedTuple

import flax.struct
import numpy as np
from PIL import Image

from rewardedit_jax.data.images import square
from rewardedit_jax.data.order import ordered_batches
from rewardedit_jax.reward import Reward


@flax.struct.dataclass
class EditBatch:
    source: Any
    edited: Any
    inputs: Any


class _Example(NamedTuple):
    source: Any
    edited: Any
    instruction: str
    reward: Any


def edit_batches(source, read, *, resolution, flip, skip_bad, **order):
    def prepare(record, rng):
        mirrored = flip and rng.random() < 0.5

        def sized(image):
            x = np.asarray(square(Image.fromarray(image), resolution))
            return x[:, ::-1] if mirrored else x

        reward = None if record.scores is None else Reward(*record.scores, feedback=record.feedback)
        return _Example(sized(record.source), sized(record.edited), record.instruction, reward)

    def collate(examples):
        sources = [e.source for e in examples]
        return EditBatch(
            np.stack(sources),
            np.stack([e.edited for e in examples]),
            read(sources, [e.instruction for e in examples], [e.reward for e in examples]),
        )

    return ordered_batches(source, prepare, collate, **order)
