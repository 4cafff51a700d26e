"""The Fréchet inception distance (Heusel et al. 2017, arXiv:1706.08500) between two sets of images, as pytorch-fid's.

Images are resized to 299×299 as torch's `interpolate(mode="bilinear", align_corners=False)` does, without smoothing
where they shrink, whatever their aspect ratio. The features are `pool3` of Inception.
"""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Float32, UInt8

from rewardedit_jax.evaluation.metrics.embedding_networks import apply
from rewardedit_jax.models.inception import SIDE, InceptionV3
from rewardedit_jax.params import Params
from rewardedit_jax.weights.perceptual import INCEPTION_TABLE
from rewardedit_jax.weights.published import PublishedFile, read_published

INCEPTION_FILE = PublishedFile(
    "pt_inception-2015-12-05-6726825d",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
)


def frechet_distance(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "m d"]) -> float:
    """The squared Fréchet distance of two Gaussians with the means and covariances of two sets of features, in float64.

    |mean 1 - mean 2|² + tr(C1) + tr(C2) - 2 tr((C1 C2)^½), with covariances over n - 1.

    With fewer images than features, the covariances are singular. pytorch-fid then computes the matrix root as
    accurately as rounding allows, and where that fails adds 1e-6 to the diagonals. Here no product of covariances is
    formed: for C1 = A'A and C2 = B'B, the trace of the root is the sum of the singular values of A B', which
    singular covariances have too.

    Raises:
      ValueError: a set has less than two members.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"sets of {len(first)} and {len(second)} images: FID needs two in each at least")
    (mean1, root1), (mean2, root2) = _moments(first), _moments(second)
    traces = np.square(root1).sum() + np.square(root2).sum()
    distance = np.square(mean1 - mean2).sum() + traces - 2 * np.linalg.svd(root1 @ root2.T, compute_uv=False).sum()
    return max(0.0, float(distance))  # rounding leaves -1e-13 for equal sets


def _moments(features: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "r d"]]:
    """The mean, and a root A of the covariance A'A with as few rows as it has."""
    features = features.astype(np.float64)
    mean = features.mean(0)
    return mean, np.linalg.qr((features - mean) / np.sqrt(len(features) - 1), mode="r")


def resize_bilinear(image: Float32[np.ndarray, "h w c"], side: int) -> Float32[np.ndarray, "h2 w2 c"]:
    """The image at side × side: each pixel is interpolated between its four nearest ones, none is averaged away."""
    for axis in (0, 1):
        size = image.shape[axis]
        # Centres of the new pixels in the old grid, in float32 as in torch; at the border the nearest pixel counts.
        at = np.clip((np.arange(side, dtype=np.float32) + 0.5) * np.float32(size / side) - 0.5, 0, size - 1)
        below = np.floor(at).astype(int)
        share = np.expand_dims(at - below.astype(np.float32), (1, 2) if axis == 0 else (0, 2))
        nearer, farther = (image.take(i, axis) for i in (below, np.minimum(below + 1, size - 1)))
        image = nearer * (1 - share) + farther * share
    return image


class Inception:
    """Features of images for FID."""

    def __init__(self, params: Params):
        self._module, self._params = InceptionV3(), jax.device_put(params)

    @classmethod
    def load(cls, directory: Path) -> "Inception":
        """The network. Raises FileNotFoundError that says where to get its weights if they are not in the directory."""
        return cls(read_published(InceptionV3(), INCEPTION_TABLE, directory, [INCEPTION_FILE]))

    def preprocess(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "299 299 3"]:
        return resize_bilinear(image.astype(np.float32) / 255, SIDE)

    def embed(self, images: Float32[np.ndarray, "b 299 299 3"]) -> Float32[np.ndarray, "b 2048"]:
        return apply(self._module, self._params, images)
