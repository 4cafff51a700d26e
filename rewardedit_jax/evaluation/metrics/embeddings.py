"""Metrics of embeddings: a network embeds each image and each text once, and its metrics compare the vectors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from rewardedit_jax.data.images import read_image
from rewardedit_jax.data.prefetch import prefetch_map
from rewardedit_jax.data.runs import Failed
from rewardedit_jax.editing.requests import in_batches
from rewardedit_jax.evaluation.metrics.items import MetricItem
from rewardedit_jax.evaluation.metrics.report import Measured, outcome
from rewardedit_jax.evaluation.metrics.suite import Embedder, Metric

Vectors = Float[np.ndarray, "n d"]


@dataclass(frozen=True)
class Embeddings:
    """Vectors of images (by path) and texts, and why images have none."""

    vectors: Mapping[Path | str, Float[np.ndarray, " d"]]
    faults: Mapping[Path | str, str]


def embed(
    embedder: Embedder, name: str, metrics: Sequence[Metric], items: Sequence[MetricItem], batch_size: int
) -> Embeddings:
    """The embeddings of all that the metrics compare of the items; `name` is that of the network."""
    inputs = dict.fromkeys(x for m in metrics for item in items if m.takes(item) for x in _inputs(m, item))
    paths, texts = ([x for x in inputs if isinstance(x, kind)] for kind in (Path, str))
    faults, vectors = {}, {}

    def prepare(path: Path) -> np.ndarray:
        return embedder.preprocess(np.asarray(read_image(path)))

    def prepared() -> Iterator[tuple[Path, np.ndarray]]:
        futures = prefetch_map(prepare, ((path,) for path in paths), 2 * batch_size)
        bar = tqdm(futures, name, len(paths), unit="image", disable=len(paths) < 2)
        for path, future in zip(paths, bar, strict=True):
            if error := future.exception():
                if not isinstance(error, ValueError):
                    raise error
                faults[path] = str(error)
            else:
                yield path, future.result()

    for batch in in_batches(prepared(), lambda _: None, batch_size):
        chunk, images = zip(*batch, strict=True)
        vectors |= zip(chunk, embedder.embed(np.stack(images)), strict=True)
    for start in range(0, len(texts), batch_size):
        chunk = texts[start : start + batch_size]
        vectors |= zip(chunk, embedder.embed_texts(chunk), strict=True)
    return Embeddings(vectors, faults)


def compare(metric: Metric, items: Sequence[MetricItem], embeddings: Embeddings, seed: int) -> Measured:
    """A metric of the items that have what it needs."""
    inputs = {item.key: _inputs(metric, item) for item in items if metric.takes(item)}
    faults = {key: embeddings.faults[x] for key, xs in inputs.items() for x in xs if x in embeddings.faults}
    kept = {key: xs for key, xs in inputs.items() if key not in faults}
    columns = list(zip(*kept.values(), strict=True))
    if metric.of_sets:
        # An image that is the source of several items is one member of its set.
        sets = [_stacked(dict.fromkeys(column), embeddings) for column in columns]
        return _of_sets(metric, sets, len(kept), faults)
    values = metric.compare(*(_stacked(column, embeddings) for column in columns)) if kept else ()
    outcomes = {key: Failed(reason) for key, reason in faults.items()}
    outcomes |= zip(kept, map(outcome, values), strict=True)
    return Measured.over_items(metric.name, metric.better, outcomes, seed)


def _of_sets(metric: Metric, sets: Sequence[Vectors], count: int, left_out: dict[str, str]) -> Measured:
    name, better = metric.name, metric.better
    if not sets:
        return Measured(name, better, None, None, 0, {}, left_out, "no item could be read")
    try:
        # No interval: a resample repeats images, which narrows a set and moves these distances upwards.
        return Measured(name, better, float(metric.compare(*sets)), None, count, {}, left_out)
    except ValueError as error:  # sets with too few images
        return Measured(name, better, None, None, 0, {}, left_out, str(error))


def _inputs(metric: Metric, item: MetricItem) -> list[Path | str]:
    return [getattr(item, need) for need in metric.needs]


def _stacked(inputs: Iterable[Path | str], embeddings: Embeddings) -> Vectors:
    return np.stack([embeddings.vectors[x] for x in inputs])
