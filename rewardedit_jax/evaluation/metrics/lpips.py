"""LPIPS of pictures of equal size, as the package `lpips` 0.1.4 computes it from images in [-1, 1]."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from rewardedit_jax.data.images import to_unit
from rewardedit_jax.evaluation.metrics.embedding_networks import apply
from rewardedit_jax.models.lpips import ALEXNET, LPIPS, SQUEEZENET, VGG16, FeatureStack
from rewardedit_jax.weights.perceptual import LPIPS_TABLE
from rewardedit_jax.weights.published import PublishedFile, read_published

Distance = Callable[[UInt8[np.ndarray, "b h w 3"], UInt8[np.ndarray, "b h w 3"]], Float[np.ndarray, " b"]]

_HEADS = "the wheel of https://pypi.org/project/lpips, folder lpips/weights/v0.1"
_TORCHVISION = "https://download.pytorch.org/models"


class Variant(NamedTuple):
    """One of the networks that LPIPS has heads for."""

    stack: FeatureStack
    files: tuple[PublishedFile, ...]


def _variant(stack: FeatureStack, network: str, heads: str) -> Variant:
    return Variant(stack, (PublishedFile(heads, _HEADS), PublishedFile(network, f"{_TORCHVISION}/{network}.pth")))


VARIANTS = {
    "alex": _variant(ALEXNET, "alexnet-owt-7be5be79", "alex"),
    "vgg": _variant(VGG16, "vgg16-397923af", "vgg"),
    "squeeze": _variant(SQUEEZENET, "squeezenet1_1-b8a52dc0", "squeeze"),
}


def load_lpips(name: str, directory: Path) -> Distance:
    """The distance of a variant: pictures [b h w 3], edited and reference → distances [b].

    Raises FileNotFoundError that says where to get the weights that are not in the directory.
    """
    stack, files = VARIANTS[name]
    module = LPIPS(stack)
    params = jax.device_put(read_published(module, LPIPS_TABLE, directory, files))
    return lambda edited, reference: apply(module, params, (edited, reference), _distances)


def _distances(module: LPIPS, pictures: tuple[UInt8[Array, "b h w 3"], UInt8[Array, "b h w 3"]]) -> Float[Array, " b"]:
    return module(*map(to_unit, pictures))
