"""Pairs of edits with preferences → batches to train a scorer on.

Every pair brings its own three images (source, preferred, other) and two rows of packed prompts, so that a batch can be
divided over devices and micro-batches pair by pair.

A pair is bad if an image cannot be read or is too narrow to be scored, or if the instruction contains a special token
of the scorer. `data.order` says what happens then: an error, or with `data.skip_bad` another row in its place. A row,
not a pair: it brings the order of its own edits.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32
from ml_collections import ConfigDict
from PIL import Image

from rewardedit_jax.data.order import ordered_batches, recipe_order
from rewardedit_jax.data.records import PreferenceLabel, PreferenceSource
from rewardedit_jax.models.edit_reward import PackedPrompts
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.models.vision_plan import VisionPlan, pad_patches, plan_images
from rewardedit_jax.scoring.images import MERGE, prepare_scorer_image, to_patches
from rewardedit_jax.scoring.packing import ScorerItem, pack_row, prepare_item, round_up, stack_rows
from rewardedit_jax.scoring.ties import Row, disentangle, one_row_each, strict_only
from rewardedit_jax.scoring.tokenizer import ScorerTokenizer

# The treatments of ties that `data.ties` names; see `scoring.ties`.
TIES: dict[str, Callable[[Sequence[PreferenceLabel]], list[Row]]] = {
    "disentangle": disentangle,
    "both orders": lambda labels: disentangle(labels, "both orders"),
    "strict only": strict_only,
    "marked": one_row_each,
}
IMAGES = 3  # of a pair: source, preferred, other


@flax.struct.dataclass
class PairBatch:
    """One host's part of a batch. Leaves are NumPy arrays here, device arrays in the step."""

    patches: Any  # float32[b, 3, P, 1176]: normalised patches of source, preferred and other, padded with zeros
    plan: VisionPlan  # of these images, leaves [b, 3, ...]
    prompts: PackedPrompts  # of the preferred and the other edit, leaves [b, 2, ...]; image slots count within the pair
    tied: Any  # bool[b]: neither edit is preferred
    ratings: Any = None  # float32[b, 2, 2]: following and quality of each edit, 1..4; None where the data has none


class _Pair(NamedTuple):
    """A pair ready to be collated."""

    key: str
    items: tuple[ScorerItem, ScorerItem]  # preferred, other
    tied: bool
    ratings: Float32[np.ndarray, "2 2"] | None


def pair_batches(
    config: ConfigDict,
    source: PreferenceSource,
    rows: Sequence[Row],
    tokenizer: ScorerTokenizer,
    vision: QwenVisionConfig,
    system: str,
    start: int,
) -> Iterator[PairBatch]:
    """This host's batches of a recipe from step `start` on.

    Args:
      config: `data.area` (pixels of an image); `data.row_tokens` and `data.image_patches`, to multiples of which rows
        and images are padded, so that few programs are compiled; `data.skip_bad` (whether bad rows are replaced); and
        what `recipe_order` reads.
      rows: the pairs to learn from, with the order of their edits.
      system: the system prompt.
    """
    return ordered_batches(
        rows,
        _Prepare(source, tokenizer, system, config.data.area),
        _Collate(vision, config.data.row_tokens, config.data.image_patches),
        skip_bad=config.data.skip_bad,
        name=lambda number: f"pair {source.labels[rows[number].index].key}",
        **recipe_order(config, start),
    )


@dataclass(frozen=True, eq=False)
class _Prepare:
    """Row → pair with images resized and prompts tokenized. Nothing is random: the generator is not used."""

    source: PreferenceSource
    tokenizer: ScorerTokenizer
    system: str
    area: int

    def __call__(self, row: Row, rng: np.random.Generator) -> _Pair:
        pair = self.source[row.index]
        sides = {"a": (pair.edited_a, pair.ratings_a), "b": (pair.edited_b, pair.ratings_b)}
        ordered = [sides[row.preferred], sides["b" if row.preferred == "a" else "a"]]
        source = prepare_scorer_image(Image.fromarray(pair.source), self.area)  # once for both edits
        items = tuple(self._item(source, Image.fromarray(edited), pair.instruction) for edited, _ in ordered)
        ratings = None if ordered[0][1] is None else np.asarray([ratings for _, ratings in ordered], np.float32)
        return _Pair(pair.key, items, row.tied, ratings)

    def _item(self, source: Any, edited: Image.Image, instruction: str) -> ScorerItem:
        return prepare_item(source, edited, instruction, self.tokenizer, system=self.system, area=self.area)


@dataclass(frozen=True)
class _Collate:
    """Pairs → batch."""

    vision: QwenVisionConfig
    row_tokens: int
    image_patches: int

    def __call__(self, pairs: Sequence[_Pair]) -> PairBatch:
        _check_alike(pairs)
        images = [image for pair in pairs for image in (pair.items[0].source, *(item.edited for item in pair.items))]
        grids = np.array([image.grid for image in images], np.int32)
        # Every image of the batch takes the patches of the largest, so that images are rows of one array.
        width = round_up(int(grids.prod(axis=1).max()), self.image_patches)
        patches = pad_patches(np.concatenate([to_patches(image.pixels) for image in images]), grids, width)
        plan = plan_images(grids, self.vision, width)
        rows = [_pack(item, side, width) for pair in pairs for side, item in enumerate(pair.items)]
        prompts = stack_rows(rows, len(rows), self.row_tokens)
        return PairBatch(
            patches=_by_pair(patches, IMAGES),
            plan=jax.tree.map(lambda x: _by_pair(x, IMAGES), plan),
            prompts=jax.tree.map(lambda x: _by_pair(x, 2), prompts),
            tied=np.array([pair.tied for pair in pairs]),
            ratings=None if pairs[0].ratings is None else np.stack([pair.ratings for pair in pairs]),
        )


def _pack(item: ScorerItem, side: int, width: int) -> Any:
    """The row of one edit, whose images are numbers 0 (source) and 1 + side of the pair."""
    # An image begins at a multiple of the padded width; MERGE² patches become one image feature.
    starts = 0, (1 + side) * width // MERGE**2
    slots = [start + np.arange(image.n_tokens) for start, image in zip(starts, (item.source, item.edited), strict=True)]
    return pack_row(item.prompts, item.image_positions, np.concatenate(slots).astype(np.int32))


def _by_pair(x: np.ndarray, count: int) -> np.ndarray:
    return x.reshape(-1, count, *x.shape[1:])


def _check_alike(pairs: Sequence[_Pair]) -> None:
    """Raises ValueError if only some pairs have ratings: invented ones for the others would be trained on."""
    has = [pair.ratings is not None for pair in pairs]
    if any(has) and not all(has):
        raise ValueError(
            f"pair {pairs[has.index(False)].key} has no ratings, others of its batch have; expected all or none."
        )


def all_images(batch: PairBatch) -> tuple[Any, VisionPlan]:
    """Patches and plan of all pairs' images, one after the other: leaves [b · 3, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (batch.patches, batch.plan))


def all_prompts(batch: PairBatch) -> PackedPrompts:
    """Prompts of all edits, one after the other, leaves [b · 2, ...]; image slots count over the images of `batch`."""
    features = IMAGES * batch.patches.shape[2] // MERGE**2
    slots = batch.prompts.image_slots
    first = features * jnp.arange(slots.shape[0])[:, None, None]
    # -1 marks tokens that are not image tokens.
    moved = jnp.where(slots >= 0, slots + first, -1)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch.prompts.replace(image_slots=moved))
