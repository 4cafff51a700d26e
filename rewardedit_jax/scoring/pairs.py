"""Pairs of edits with preferences → ordered rows, with a treatment of ties → batches to train a scorer on.

EditReward (arXiv:2509.26346), section 3.3 and eq. 6, splits a tie whose perspectives cross — one edit follows the
instruction better, the other has the better quality — into two rows of opposite order. Only the aggregated score is
ranked, so that the two rows together act as the soft label 1/2: they pull the two scores together, without a signal for
which edit is better in which perspective (`objectives.per_perspective` has that).

Ratings with equal sums leave two cases: the perspectives cross, or both are equal. The latter is a full tie, which the
paper does not treat. A tie vote without ratings, or against them, counts as full: no perspectives are known to cross.

In a batch, every pair has its own three images (source, preferred, other) and two rows of packed prompts, so that the
batch can be divided over devices and micro-batches pair by pair. A pair is bad if an image cannot be read or is too
narrow to be scored, or if the instruction contains a special token of the scorer. `data.order` raises an error then,
or with `data.skip_bad` reads another row, with the order of its own edits.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32
from ml_collections import ConfigDict
from PIL import Image

from rewardedit_jax.data.order import check_all_or_none, ordered_batches, recipe_order
from rewardedit_jax.data.records import PreferenceLabel, PreferenceSource
from rewardedit_jax.models.edit_reward import PackedPrompts
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.models.vision_plan import VisionPlan, pad_patches, plan_images
from rewardedit_jax.scoring.images import MERGE, cut_patches, normalise_patches, prepare_scorer_image
from rewardedit_jax.scoring.packing import ScorerItem, pack_item, prepare_item, round_up, stack_rows
from rewardedit_jax.scoring.tokenizer import ScorerTokenizer

IMAGES = 3  # of a pair: source, preferred, other


class Row(NamedTuple):
    """A row to learn from: pair `index`, with its edit `preferred` first."""

    index: int
    preferred: Literal["a", "b"]
    tied: bool = False  # neither edit is preferred: the order has no meaning


def kind(label: PreferenceLabel) -> Literal["strict", "crossing", "full"]:
    """`strict` where one edit is preferred, else whether the perspectives of the tie cross."""
    if label.preferred != "tie":
        return "strict"
    if label.ratings_a is None or label.ratings_b is None:
        return "full"
    following, quality = (a - b for a, b in zip(label.ratings_a, label.ratings_b, strict=True))
    # Opposite signs: each edit is better in one perspective.
    return "crossing" if following * quality < 0 else "full"


def disentangle(labels: Sequence[PreferenceLabel], full_ties: str = "drop") -> list[Row]:
    """One row per preferred edit, two per crossing tie (eq. 6), none ("drop") or two ("both orders") per full tie."""
    if full_ties not in ("drop", "both orders"):
        raise ValueError(f"full_ties={full_ties!r}: expected 'drop' or 'both orders'.")
    # The edits that come first in the rows of a tie; a strict pair has one row, its preferred edit first.
    sides = {"crossing": ("a", "b"), "full": ("a", "b") if full_ties == "both orders" else ()}
    return [Row(i, side) for i, label in enumerate(labels) for side in sides.get(kind(label), (label.preferred,))]


def one_row_each(labels: Sequence[PreferenceLabel]) -> list[Row]:
    """One row per pair, ties marked as `tied`, for objectives with a term for ties (`btt`, `per_perspective`)."""
    orders = {"a": ("a", False), "b": ("b", False), "tie": ("a", True)}
    return [Row(index, *orders[label.preferred]) for index, label in enumerate(labels)]


def strict_only(labels: Sequence[PreferenceLabel]) -> list[Row]:
    """One row per preferred edit; ties are left out."""
    return [row for row in one_row_each(labels) if not row.tied]


# By the values of `data.ties`.
TIES: dict[str, Callable[[Sequence[PreferenceLabel]], list[Row]]] = {
    "disentangle": disentangle,
    "both orders": partial(disentangle, full_ties="both orders"),
    "strict only": strict_only,
    "marked": one_row_each,
}


@flax.struct.dataclass
class PairBatch:
    """One host's part of a batch. Leaves are NumPy arrays here, device arrays in the step."""

    patches: Any  # uint8[b, 3, P, 588]: cut patches of source, preferred and other, padded with zeros
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
      config: `data.area` (pixels of an image), `data.skip_bad` (whether bad rows are replaced), and what `recipe_order`
        reads. Rows and images are padded to multiples of `data.row_tokens` and `data.image_patches`, so that few
        programs are compiled.
      system: text of the system turn.
    """
    prepare = partial(prepare_item, tokenizer=tokenizer, system=system, area=config.data.area)
    return ordered_batches(
        rows,
        partial(_prepare, source=source, prepare=prepare, area=config.data.area),
        partial(_collate, vision=vision, config=config.data),
        skip_bad=config.data.skip_bad,
        name=lambda number: f"pair {source.labels[rows[number].index].key}",
        **recipe_order(config, start),
    )


def _prepare(row: Row, place: int, *, source: PreferenceSource, prepare: Callable[..., ScorerItem], area: int) -> _Pair:
    """The pair of a row. Nothing about it is random: its place in line is not used."""
    pair = source[row.index]
    sides = {"a": (pair.edited_a, pair.ratings_a), "b": (pair.edited_b, pair.ratings_b)}
    ordered = [sides[row.preferred], sides["b" if row.preferred == "a" else "a"]]
    image = prepare_scorer_image(Image.fromarray(pair.source), area)  # once for both edits
    items = tuple(prepare(image, Image.fromarray(edited), pair.instruction) for edited, _ in ordered)
    ratings = None if ordered[0][1] is None else np.asarray([ratings for _, ratings in ordered], np.float32)
    return _Pair(pair.key, items, row.tied, ratings)


def _collate(pairs: Sequence[_Pair], *, vision: QwenVisionConfig, config: ConfigDict) -> PairBatch:
    check_all_or_none("ratings", {f"pair {pair.key}": pair.ratings for pair in pairs})
    images = [image for pair in pairs for image in (pair.items[0].source, *(item.edited for item in pair.items))]
    grids = np.array([image.grid for image in images], np.int32)
    # Every image of the batch takes the patches of the largest, so that images are rows of one array.
    width = round_up(int(grids.prod(axis=1).max()), config.image_patches)
    patches = pad_patches(np.concatenate([cut_patches(image.pixels) for image in images]), grids, width)
    # MERGE² patches become one feature. The features of the edits follow those of their source.
    starts = [(0, image * width // MERGE**2) for image in range(1, IMAGES)]
    rows = [pack_item(item, start) for pair in pairs for item, start in zip(pair.items, starts, strict=True)]
    by_images, by_edits = (lambda x, count=count: x.reshape(-1, count, *x.shape[1:]) for count in (IMAGES, 2))
    return PairBatch(
        patches=by_images(patches),
        plan=jax.tree.map(by_images, plan_images(grids, vision, width)),
        prompts=jax.tree.map(by_edits, stack_rows(rows, len(rows), config.row_tokens)),
        tied=np.array([pair.tied for pair in pairs]),
        ratings=None if pairs[0].ratings is None else np.stack([pair.ratings for pair in pairs]),
    )


def all_images(batch: PairBatch) -> tuple[Any, VisionPlan]:
    """Normalised patches and plan of all pairs' images, one after the other: leaves [b · 3, ...]."""
    patches, plan = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (batch.patches, batch.plan))
    return normalise_patches(patches), plan


def all_prompts(batch: PairBatch) -> PackedPrompts:
    """Prompts of all edits, one after the other, leaves [b · 2, ...]; image slots count over the images of `batch`."""
    features = IMAGES * batch.patches.shape[2] // MERGE**2
    slots = batch.prompts.image_slots
    first = features * jnp.arange(slots.shape[0])[:, None, None]
    # -1 marks tokens that are not image tokens.
    moved = jnp.where(slots >= 0, slots + first, -1)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch.prompts.replace(image_slots=moved))
