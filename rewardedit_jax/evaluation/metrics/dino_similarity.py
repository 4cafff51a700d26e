"""DINO and DINOv2 similarity: the cosine of the class tokens of two images.

The reference of the first is MagicBrush's `evaluation/image_eval.py` (OSU-NLP-Group/MagicBrush): ViT-S/16 of
facebookresearch/dino, whose output is the class token after the last norm; the shortest edge to 256 pixels by Pillow's
bicubic filter, the central 224 cropped, ImageNet's mean and deviation. No published script of an editing benchmark
computes DINOv2's; its preprocessing is the same, that of its own `preprocessor_config.json`, and so is the choice of
token. Differences:
- The network computes in full float32, the cosine in float64.
- Images of which 3, 7, 11, ... pixels are cropped are shifted by one pixel (`image_inputs`).
The `preprocessor_config.json` of facebook/dino-vits16 squeezes images to 224×224 instead. It is not followed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float32, UInt8

from rewardedit_jax.evaluation.metrics import image_inputs
from rewardedit_jax.evaluation.metrics.embedding_networks import apply, find_network, load_network
from rewardedit_jax.models.vit import Dinov2Model, ViTModel
from rewardedit_jax.params import Params

_EDGE, _CROP = 256, 224  # pixels


@dataclass(frozen=True, eq=False)
class _ClassTokens:
    """A vision transformer that describes an image by its class token."""

    HUB_ID: ClassVar[str]
    _network: ClassVar[type]

    module: ViTModel | Dinov2Model
    params: Params

    @classmethod
    def load(cls, directory: str | Path | None = None) -> Self:
        """The network in a directory, or of a hub id; None: `HUB_ID`.

        Raises:
          FileNotFoundError: the model is not there; says where to get it.
          WeightFileError: files are damaged, or hold another network.
        """
        directory = find_network(cls.HUB_ID if directory is None else directory, cls.HUB_ID)
        return cls(*load_network(directory, cls._network))

    def preprocess(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "224 224 3"]:
        """An image of any size as the network takes it."""
        return image_inputs.normalise(image_inputs.resize_and_crop(image, _EDGE, _CROP), image_inputs.IMAGENET)

    def embed(self, images: Float32[np.ndarray, "b 224 224 3"]) -> Float32[np.ndarray, "b d"]:
        """Class tokens of preprocessed images, not normalised. Compiles once for each number of images."""
        return apply(self.module, self.params, images, type(self.module).class_token)


class DinoSimilarity(_ClassTokens):
    """DINO's ViT-S/16."""

    HUB_ID = "facebook/dino-vits16"
    _network = ViTModel


class Dinov2Similarity(_ClassTokens):
    """DINOv2; any of its sizes."""

    HUB_ID = "facebook/dinov2-base"
    _network = Dinov2Model
