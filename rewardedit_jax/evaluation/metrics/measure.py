"""Measuring a list of edits: each picture pair and each embedding is computed once, and every item is accounted for."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rewardedit_jax.arguments import as_integer
from rewardedit_jax.data.images import ImageError
from rewardedit_jax.data.runs import Failed
from rewardedit_jax.editing.requests import in_batches
from rewardedit_jax.evaluation.metrics.embeddings import compare, embed
from rewardedit_jax.evaluation.metrics.items import MetricItem, Pair, check_keys, read_pictures
from rewardedit_jax.evaluation.metrics.report import Measured, MetricReport, Outcomes, PictureNotes, outcome
from rewardedit_jax.evaluation.metrics.suite import Compare, Metric, select


def measure(
    items: Sequence[MetricItem],
    metrics: Sequence[str] | None = None,
    weights: Path | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> MetricReport:
    """The metrics of a list of edits.

    Args:
      metrics: names in `suite.METRICS`; None: all.
      weights: the folder of weight files. A metric whose files are not there is reported as missing.
      batch_size: pictures of one size, or images of a network, at a time.
      seed: of the bootstrap.
    Returns:
      Every number, and what each metric and each item lacks. An item with a picture that cannot be read has failed, and
      enters no metric.
    Raises:
      ValueError: an unknown metric, a key that two items have, or no folder `weights`.
      WeightFileError, WeightMismatch: weights that are there, but damaged or of another network.
    """
    as_integer("batch_size", batch_size, 1)
    if weights is not None and not weights.is_dir():
        raise ValueError(f"weights={str(weights)!r}: there is no such folder.")
    check_keys(items)
    wanted = select(metrics)
    missing = {m.name: _lack(m) for m in wanted if not any(map(m.takes, items))}
    wanted = [m for m in wanted if m.name not in missing]
    pairwise = list(_loaded([m for m in wanted if m.compare is None], weights, missing))
    measured, notes = _compare_pictures(items, pairwise, batch_size, seed)
    good = [item for item in items if item.key not in notes.failed]
    for embedder, group in _loaded([m for m in wanted if m.compare], weights, missing):
        embeddings = embed(embedder, group[0].loader.name, group, good, batch_size)
        measured |= {m.name: compare(m, good, embeddings, seed) for m in group}
    ordered = [measured[m.name] for m in wanted if m.name in measured]
    return MetricReport([item.key for item in items], ordered, missing, notes, _texts(items))


def _texts(items: Sequence[MetricItem]) -> dict[str, int]:
    return dict(Counter("edited_caption" if item.edited_caption else "instruction" for item in items))


def _lack(metric: Metric) -> str:
    names = [name.replace("_", " ") for name in metric.needs]
    return f"no item has all that it compares: {', '.join(names)}"


def _loaded(
    metrics: Sequence[Metric], weights: Path | None, missing: dict[str, str]
) -> Iterator[tuple[Any, list[Metric]]]:
    """What metrics compute with, and the metrics that share it. Where it lacks something they go to `missing`."""
    for loader in dict.fromkeys(metric.loader for metric in metrics):
        group = [metric for metric in metrics if metric.loader == loader]
        try:
            loaded = loader(weights)
        except (FileNotFoundError, ImportError) as error:
            missing |= {metric.name: str(error) for metric in group}
        else:
            yield loaded, group


def _compare_pictures(
    items: Sequence[MetricItem], functions: Sequence[tuple[Compare, list[Metric]]], batch_size: int, seed: int
) -> tuple[dict[str, Measured], PictureNotes]:
    """The metrics of pictures, and what was noted about the pictures: all are read, for the other metrics."""
    notes = PictureNotes()
    values: dict[Metric, Outcomes] = {metric: {} for _, group in functions for metric in group}
    # By reference too: a metric takes one of the two.
    pairs = _pairs(items, notes, 2 * batch_size)
    for batch in in_batches(pairs, lambda pair: (pair.against, pair.size), batch_size):
        edited, reference = (np.stack([getattr(p, side) for p in batch]) for side in ("edited", "reference"))
        for function, group in functions:
            for metric in group:
                if batch[0].against in metric.needs:
                    values[metric] |= _outcomes(function, edited, reference, [pair.key for pair in batch])
    return {
        m.name: Measured.over_items(m.name, m.better, _in_order(items, of), seed) for m, of in values.items()
    }, notes


def _in_order(items: Sequence[MetricItem], outcomes: Outcomes) -> Outcomes:
    # Batches are by size, and the bootstrap draws by position.
    return {item.key: outcomes[item.key] for item in items if item.key in outcomes}


def _outcomes(function: Compare, edited: np.ndarray, reference: np.ndarray, keys: Sequence[str]) -> Outcomes:
    try:
        return dict(zip(keys, map(outcome, function(edited, reference)), strict=True))
    except ValueError as error:  # pictures that are too small for a window or a network
        return dict.fromkeys(keys, Failed(str(error)))


def _pairs(items: Sequence[MetricItem], notes: PictureNotes, ahead: int) -> Iterator[Pair]:
    """The pairs of all items. Notes items that fail, edited pictures without colour, and those of another size."""
    stream = tqdm(read_pictures(items, ahead), "pictures", len(items), unit="item", disable=len(items) < 2)
    for item, pictures in zip(items, stream, strict=True):
        if isinstance(pictures, ImageError):
            notes.failed[item.key] = str(pictures)
            continue
        if pictures.grayscale:
            notes.grayscale.append(item.key)
        for pair in pictures.pairs:
            if pair.resized_from:
                notes.resized.setdefault(item.key, {})[pair.against] = (pair.resized_from, pair.size)
            yield pair
