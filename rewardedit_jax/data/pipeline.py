"""Edit records → batches of images and tokens, in the order of `order.py`."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.struct
import numpy as np
from absl import logging
from jaxtyping import Float, UInt8
from PIL import Image

from rewardedit_jax.data.images import square
from rewardedit_jax.data.order import ordered_batches
from rewardedit_jax.data.records import EditRecord, Source
from rewardedit_jax.data.clip_tokenizer import CLIPTokenizer, Tokens, encode
from rewardedit_jax.reward import join_feedback


@flax.struct.dataclass
class EditBatch:
    """One host's part of a batch. Leaves are NumPy arrays here, device arrays in the step."""

    source: Any  # uint8[b, H, W, 3]: image before the edit, 0..255
    edited: Any  # uint8[b, H, W, 3]: image after the edit, the training target, 0..255
    instruction_ids: Any  # int32[b, L]: CLIP tokens, padded to L = the tokenizer's model_max_length
    reward_ids: Any = None  # int32[b, L]: CLIP tokens of the joined feedback; None where records have no feedback
    scores: Any = None  # float32[b, 3]: following, preserving, quality, 0..5; None where records have no scores


class _Example(NamedTuple):
    """A record at its final size, before its texts become tokens."""

    key: str
    source: UInt8[np.ndarray, "s s 3"]
    edited: UInt8[np.ndarray, "s s 3"]
    instruction: str
    reward: str | None
    scores: Float[np.ndarray, "3"] | None


def edit_batches(
    source: Source,
    tokenizer: CLIPTokenizer,
    *,
    resolution: int,
    flip: bool,
    perspectives: Sequence[str],
    **order: Any,
) -> Iterator[EditBatch]:
    """This host's part of the batches of steps `start`, `start + 1`, ...

    Args:
      resolution: side of the square that images are resized to.
      flip: whether pairs are mirrored, both images or neither, with probability 1/2. (Instructions may speak
        of left and right, which a flip exchanges.)
      perspectives: whose feedback makes up the reward text.
      order: batch size, seed, hosts and so on, as in `ordered_batches`. Flips follow from the seed too.
    Raises:
      ValueError: if the numbers do not fit each other. Errors of reading come from the iterator.
    """
    join_feedback(("", "", ""), perspectives)  # an unknown perspective is told here, not by a thread
    return ordered_batches(source, _Prepare(resolution, flip, tuple(perspectives)), _Collate(tokenizer), **order)


@dataclass(frozen=True)
class _Prepare:
    """Record → example: resize, flip, join the feedback. `rng` is seeded by the record's place in line."""

    resolution: int
    flip: bool
    perspectives: tuple[str, ...]

    def __call__(self, record: EditRecord, rng: np.random.Generator) -> _Example:
        mirrored = self.flip and rng.random() < 0.5
        source, edited = (self._sized(image, mirrored) for image in (record.source, record.edited))
        reward = None if record.feedback is None else join_feedback(record.feedback, self.perspectives)
        return _Example(record.key, source, edited, record.instruction, reward, record.scores)

    def _sized(self, image: UInt8[np.ndarray, "h w 3"], mirrored: bool) -> UInt8[np.ndarray, "s s 3"]:
        sized = np.asarray(square(Image.fromarray(image), self.resolution))
        return sized[:, ::-1] if mirrored else sized


@dataclass
class _Collate:
    """Examples → batch. Texts are tokenised a batch at a time; those too long are counted in the log."""

    tokenizer: CLIPTokenizer
    texts_cut: int = 0
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __call__(self, examples: Sequence[_Example]) -> EditBatch:
        _check_alike(examples)
        judged = examples[0].reward is not None
        return EditBatch(
            source=np.stack([example.source for example in examples]),
            edited=np.stack([example.edited for example in examples]),
            instruction_ids=self._ids([example.instruction for example in examples]),
            reward_ids=self._ids([example.reward for example in examples]) if judged else None,
            scores=_stack_or_none([example.scores for example in examples]),
        )

    def _ids(self, texts: Sequence[str]) -> np.ndarray:
        tokens = encode(self.tokenizer, texts)
        if tokens.cut.any():
            self._note(texts, tokens)
        return tokens.ids

    def _note(self, texts: Sequence[str], tokens: Tokens) -> None:
        """Logs the count at 1, 10, 100, ... texts: enough to know, too little to drown the log."""
        for i in np.flatnonzero(tokens.cut):
            with self._lock:
                self.texts_cut += 1
                count = self.texts_cut
            if set(str(count)[1:]) <= {"0"} and str(count)[0] == "1":
                logging.warning(
                    "%d texts read so far were cut; this one by %d tokens: %s", count, tokens.cut[i], texts[i]
                )


def _stack_or_none(scores: Sequence[np.ndarray | None]) -> np.ndarray | None:
    return None if scores[0] is None else np.stack(scores).astype(np.float32)


def _check_alike(examples: Sequence[_Example]) -> None:
    """A batch is judged or not as a whole: a reward made up for some of it would be trained on."""
    for name in ("reward", "scores"):
        has = [getattr(example, name) is not None for example in examples]
        if any(has) and not all(has):
            raise ValueError(f"record {examples[has.index(False)].key} has no {name}, others of its batch have.")
