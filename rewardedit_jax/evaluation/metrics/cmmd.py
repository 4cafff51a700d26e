"""CMMD: the distance between two sets of images, as the maximum mean discrepancy of their CLIP embeddings.

Jayasumana et al., "Rethinking FID: Towards a Better Evaluation Metric for Image Generation" (2024). The reference is
the folder `cmmd` of google-research/google-research: ViT-L/14 at 336 pixels, the central square of an image resized by
Pillow's bicubic filter, embeddings of length 1, a Gaussian kernel with σ = 10, the biased (minimum-variance) estimate
of the squared discrepancy, times 1000. Differences:
- It drops the images that do not fill a batch. Here, all are used.
- It computes the kernel in float32. For embeddings of length 1, all values of the kernel lie between 0.98 and 1, and
  the metric is a thousandfold difference of their means, so that rounding moves it: by up to 0.00017 for sets of 500
  and 2,000 random vectors on a CPU. Here, it is computed in float64.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8
from PIL import Image

from rewardedit_jax.evaluation.metrics import image_inputs
from rewardedit_jax.evaluation.metrics.embedding_networks import apply, find_network, load_network, unit_length
from rewardedit_jax.models.clip import CLIPModel
from rewardedit_jax.params import Params

_SIGMA = 10.0
_SCALE = 1000.0
_BLOCK = 2048  # images: the kernel of two blocks takes 32 MiB


@dataclass(frozen=True, eq=False)
class CMMDNetwork:
    """The CLIP whose embeddings `cmmd` compares."""

    HUB_ID: ClassVar[str] = "openai/clip-vit-large-patch14-336"

    module: CLIPModel
    params: Params  # of the image tower only

    @classmethod
    def load(cls, directory: str | Path = HUB_ID) -> Self:
        """The CLIP in a directory, or of a hub id. Its text tower is not read.

        Raises:
          FileNotFoundError: the model is not there; says where to get it.
          WeightFileError: files are damaged, or hold another network.
        """
        directory = find_network(directory, cls.HUB_ID)
        return cls(*load_network(directory, CLIPModel, wanted=lambda path: path.startswith("vision/")))

    def preprocess(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "s s 3"]:
        """An image of any size as the network takes it: cropped to its central square, then resized."""
        height, width, _ = image.shape
        side, size = min(height, width), (self.module.config.vision.image_size,) * 2
        top, left = (height - side) // 2, (width - side) // 2
        square = Image.fromarray(image[top : top + side, left : left + side])
        return image_inputs.normalise(np.asarray(square.resize(size, Image.Resampling.BICUBIC)), image_inputs.CLIP)

    def embed(self, images: Float32[np.ndarray, "b s s 3"]) -> Float32[np.ndarray, "b e"]:
        """Embeddings of length 1 of preprocessed images. Compiles once for each number of images."""
        embeddings = apply(self.module, self.params, images, CLIPModel.embed_images)
        return unit_length(embeddings).astype(np.float32)


def cmmd(x: Float[np.ndarray, "n e"], y: Float[np.ndarray, "m e"]) -> float:
    """The distance between two sets of embeddings of length 1, in float64: 0 for equal sets, never below 0.

    Raises ValueError for an empty set, sets of different widths, and values that are not finite.
    """
    for name, embeddings in (("x", x), ("y", y)):
        if embeddings.ndim != 2 or not embeddings.size or embeddings.shape[1] != x.shape[1]:
            raise ValueError(f"{name} has shape {embeddings.shape}: expected (images, {x.shape[-1]}), at least one")
        if not np.isfinite(embeddings).all():
            raise ValueError(f"{name} has values that are not finite")
    x, y = (np.asarray(embeddings, np.float64) for embeddings in (x, y))
    return _SCALE * (_mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y))


def _mean_kernel(a: Float64[np.ndarray, "n e"], b: Float64[np.ndarray, "m e"]) -> float:
    """The mean of exp(-|a - b|² / 2σ²) over all pairs, block by block: the whole matrix may not fit the memory."""
    starts = (range(0, len(a), _BLOCK), range(0, len(b), _BLOCK))
    total = 0.0
    for i, j in product(*starts):
        if a is b and j < i:  # the kernel is symmetric: the block (j, i) counts twice
            continue
        rows, columns = a[i : i + _BLOCK], b[j : j + _BLOCK]
        squares = (rows**2).sum(axis=1)[:, None] + (columns**2).sum(axis=1) - 2 * rows @ columns.T
        total += np.exp(squares / (-2 * _SIGMA**2)).sum() * (2 if a is b and j > i else 1)
    return total / (len(a) * len(b))
