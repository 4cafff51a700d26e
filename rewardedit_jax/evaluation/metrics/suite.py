"""The table of all metrics of edited images.

A metric compares the edited picture with a reference, pixel by pixel or through a network that takes both; or it
compares embeddings, which a network gives for each image or text. What is compared with the target is also compared
with the source, under the name with "_source": how much of the source was preserved. A new metric is one entry of the
table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Float32, UInt8

from rewardedit_jax.evaluation.metrics import pixels
from rewardedit_jax.evaluation.metrics.fid import INCEPTION_FILE, Inception, frechet_distance
from rewardedit_jax.evaluation.metrics.items import MetricItem
from rewardedit_jax.evaluation.metrics.lpips import VARIANTS, load_lpips
from rewardedit_jax.weights.published import describe

# Edited pictures and their references, of one size → a value for each pair.
Compare = Callable[[UInt8[np.ndarray, "b h w 3"], UInt8[np.ndarray, "b h w 3"]], Float[np.ndarray, " b"]]


class Embedder(Protocol):
    """A network that turns images into vectors. One for texts has `embed_texts(texts) -> Float32[n d]` as well."""

    def preprocess(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h2 w2 3"]: ...

    def embed(self, images: Float32[np.ndarray, "b h w 3"]) -> Float32[np.ndarray, "b d"]: ...


@dataclass(frozen=True)
class Loader:
    """How to get what a metric computes with: a function of pictures, or an `Embedder`."""

    name: str
    load: Callable[[Path], Any]  # folder of weights → what computes; FileNotFoundError says where to get a file
    weights: str = ""  # which files it reads and where to get them; "": none

    def __call__(self, directory: Path | None) -> Any:
        """What computes. Raises FileNotFoundError, or ImportError for a package, that says what is missing."""
        if self.weights and directory is None:
            raise FileNotFoundError(f"no folder of weights is given (--weights DIR); wanted there: {self.weights}")
        return self.load(directory)


@dataclass(frozen=True)
class Metric:
    """An entry of the table."""

    name: str
    better: str  # "lower" or "higher"
    loader: Loader
    needs: tuple[str, ...]  # attributes of an item; an item without one of them is not measured
    # Embeddings of the needs, [n d] each → a value for each item; None: the loader gives what compares pictures.
    compare: Callable[..., Any] | None = None
    of_sets: bool = False  # one value for all items: `compare` takes the embeddings of the two sets of images

    def takes(self, item: MetricItem) -> bool:
        return all(getattr(item, need) is not None for need in self.needs)


def cosine(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Cosine similarity of vectors, row by row, in float64; NaN for a vector of length 0."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    with np.errstate(invalid="ignore"):
        return (first * second).sum(1) / norms


def _pixels(name: str, compare: Compare, better: str) -> Metric:
    return Metric(name, better, Loader(name, lambda _: compare), ("edited", "target"))


def _ssim(_: Path) -> Compare:
    pixels.require_skimage()
    return pixels.ssim


def _lpips(variant: str) -> Metric:
    loader = Loader(f"lpips_{variant}", partial(load_lpips, variant), describe(VARIANTS[variant].files))
    return Metric(loader.name, "lower", loader, ("edited", "target"))


_INCEPTION = Loader("inception", Inception.load, describe([INCEPTION_FILE]))

_AGAINST_TARGET = (
    _pixels("l1", pixels.l1, "lower"),
    _pixels("l2", pixels.l2, "lower"),
    _pixels("psnr", pixels.psnr, "higher"),
    Metric("ssim", "higher", Loader("ssim", _ssim), ("edited", "target")),
    *map(_lpips, VARIANTS),
    Metric("fid", "lower", _INCEPTION, ("edited", "target"), frechet_distance, of_sets=True),
)
_AGAINST_SOURCE = tuple(replace(m, name=f"{m.name}_source", needs=("edited", "source")) for m in _AGAINST_TARGET)
METRICS = {metric.name: metric for metric in (*_AGAINST_TARGET, *_AGAINST_SOURCE)}


def select(names: Sequence[str] | None) -> list[Metric]:
    """The metrics of these names in the order of the table; None: all. Raises ValueError for an unknown name."""
    if unknown := [name for name in names or () if name not in METRICS]:
        raise ValueError(f"unknown metric {', '.join(unknown)}; known are {', '.join(METRICS)}.")
    return [metric for name, metric in METRICS.items() if names is None or name in names]
