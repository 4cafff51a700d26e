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
from rewardedit_jax.evaluation.metrics.clip_similarity import ClipSimilarity, directional_similarity
from rewardedit_jax.evaluation.metrics.cmmd import CMMDNetwork, cmmd
from rewardedit_jax.evaluation.metrics.dino_similarity import DinoSimilarity, Dinov2Similarity
from rewardedit_jax.evaluation.metrics.embedding_networks import cosine_similarity
from rewardedit_jax.evaluation.metrics.fid import INCEPTION_FILE, Inception, frechet_distance
from rewardedit_jax.evaluation.metrics.items import MetricItem
from rewardedit_jax.evaluation.metrics.lpips import VARIANTS, load_lpips
from rewardedit_jax.weights.published import describe

# Edited pictures and their references, of one size → a value for each pair.
Compare = Callable[[UInt8[np.ndarray, "b h w 3"], UInt8[np.ndarray, "b h w 3"]], Float[np.ndarray, " b"]]

_TARGET = ("edited", "target")


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


def _pixels(name: str, compare: Compare, better: str) -> Metric:
    return Metric(name, better, Loader(name, lambda _: compare), _TARGET)


def _ssim(_: Path) -> Compare:
    pixels.require_skimage()
    return pixels.ssim


def _lpips(variant: str) -> Metric:
    loader = Loader(f"lpips_{variant}", partial(load_lpips, variant), describe(VARIANTS[variant].files))
    return Metric(loader.name, "lower", loader, _TARGET)


def _hub(network: type[ClipSimilarity | CMMDNetwork | DinoSimilarity | Dinov2Similarity]) -> Loader:
    """A network in a folder of its own, which has the name of its hub repository."""
    name = network.HUB_ID.rpartition("/")[2]
    wanted = f"the folder {name} (hf download {network.HUB_ID} --local-dir {name})"

    def load(directory: Path) -> Embedder:
        # Checked here: a path that is no folder would be taken for a hub id, and downloaded.
        if not (directory / name).is_dir():
            raise FileNotFoundError(f"not in {directory}: {wanted}")
        return network.load(directory / name)

    return Loader(name, load, wanted)


_CLIP = _hub(ClipSimilarity)
_INCEPTION = Loader("inception", Inception.load, describe([INCEPTION_FILE]))

_AGAINST_TARGET = (
    _pixels("l1", pixels.l1, "lower"),
    _pixels("l2", pixels.l2, "lower"),
    _pixels("psnr", pixels.psnr, "higher"),
    Metric("ssim", "higher", Loader("ssim", _ssim), _TARGET),
    *map(_lpips, VARIANTS),
    Metric("clip_i", "higher", _CLIP, _TARGET, cosine_similarity),
    Metric("dino", "higher", _hub(DinoSimilarity), _TARGET, cosine_similarity),
    Metric("dinov2", "higher", _hub(Dinov2Similarity), _TARGET, cosine_similarity),
    Metric("fid", "lower", _INCEPTION, _TARGET, frechet_distance, of_sets=True),
    Metric("cmmd", "lower", _hub(CMMDNetwork), _TARGET, cmmd, of_sets=True),
)
_AGAINST_SOURCE = tuple(replace(m, name=f"{m.name}_source", needs=("edited", "source")) for m in _AGAINST_TARGET)
_WITH_TEXTS = (
    Metric("clip_t", "higher", _CLIP, ("edited", "text"), cosine_similarity),
    Metric(
        "clip_directional",
        "higher",
        _CLIP,
        ("source", "edited", "source_caption", "edited_caption"),
        directional_similarity,
    ),
)
METRICS = {metric.name: metric for metric in (*_AGAINST_TARGET, *_AGAINST_SOURCE, *_WITH_TEXTS)}


def select(names: Sequence[str] | None) -> list[Metric]:
    """The metrics of these names in the order of the table; None: all. Raises ValueError for an unknown name."""
    if unknown := [name for name in names or () if name not in METRICS]:
        raise ValueError(f"unknown metric {', '.join(unknown)}; known are {', '.join(METRICS)}.")
    return [metric for name, metric in METRICS.items() if names is None or name in names]
