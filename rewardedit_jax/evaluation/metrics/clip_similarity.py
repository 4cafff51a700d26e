"""CLIP-I, CLIP-T and directional similarity: cosines of CLIP's embeddings of images and texts.

- CLIP-I: edited image and target image (or source image, to measure what was preserved).
- CLIP-T: edited image and a text. MagicBrush's is the caption of the target image, not the instruction.
- Directional similarity: from source to edited image, and from the caption of the one to that of the other.

The references are MagicBrush's `evaluation/image_eval.py` (OSU-NLP-Group/MagicBrush) for the first two and
InstructPix2Pix's `metrics/clip_similarity.py` (timothybrooks/instruct-pix2pix) for the third.
MagicBrush's has ViT-B/32 and CLIP's own preprocessing: the shortest edge resized to 224 pixels by Pillow's bicubic
filter, the centre cropped. It takes the cosine of embeddings that are not normalised, which is the same number.
Differences:
- It computes in float16 on a GPU. Here, the network computes in float32 and the cosine is taken in float64.
- It fails on texts of more than 77 tokens. Here, as in InstructPix2Pix's, they are cut; they are counted and logged.
- Images of which 3, 7, 11, ... pixels are cropped are shifted by one pixel (`image_inputs`).
InstructPix2Pix's has ViT-L/14, squeezes images to a square without a low-pass filter, and normalises embeddings before
it subtracts them. Here, they are normalised too, but images are prepared as for CLIP-I.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from rewardedit_jax.data.clip_tokenizer import CLIPTokenizer, CutTexts, encode_texts, load_clip_tokenizer
from rewardedit_jax.evaluation.metrics import image_inputs
from rewardedit_jax.evaluation.metrics.embedding_networks import (
    apply,
    cosine_similarity,
    find_network,
    load_network,
    unit_length,
)
from rewardedit_jax.models.clip import CLIPModel
from rewardedit_jax.params import Params


@dataclass(frozen=True, eq=False)
class ClipSimilarity:
    """A CLIP that embeds images and texts in one space."""

    HUB_ID: ClassVar[str] = "openai/clip-vit-base-patch32"

    module: CLIPModel
    params: Params
    tokenizer: CLIPTokenizer
    cut_texts: CutTexts = field(default_factory=CutTexts)  # counts texts that were too long

    @classmethod
    def load(cls, directory: str | Path = HUB_ID) -> Self:
        """The CLIP in a directory, with the tokenizer beside the weights, or of a hub id.

        Raises:
          FileNotFoundError: the model or its tokenizer is not there; says where to get it.
          WeightFileError: files are damaged, or hold another network.
        """
        directory = find_network(directory, cls.HUB_ID)
        tokenizer = load_clip_tokenizer(directory)
        return cls(*load_network(directory, CLIPModel), tokenizer)

    def preprocess(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "s s 3"]:
        """An image of any size as the network takes it."""
        size = self.module.config.vision.image_size
        return image_inputs.normalise(image_inputs.resize_and_crop(image, size, size), image_inputs.CLIP)

    def embed(self, images: Float32[np.ndarray, "b s s 3"]) -> Float32[np.ndarray, "b e"]:
        """Embeddings of preprocessed images, not normalised. Compiles once for each number of images."""
        return apply(self.module, self.params, images, CLIPModel.embed_images)

    def embed_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "b e"]:
        """Embeddings of texts, not normalised. Texts that are too long are cut and counted in `cut_texts`."""
        tokens = encode_texts(self.tokenizer, texts)
        for text, cut in zip(texts, tokens.cut.tolist(), strict=True):
            if cut:
                self.cut_texts(text, cut)
        return apply(self.module, self.params, tokens.ids, CLIPModel.embed_texts)


def directional_similarity(
    source_image: Float[np.ndarray, "b e"],
    edited_image: Float[np.ndarray, "b e"],
    source_text: Float[np.ndarray, "b e"],
    edited_text: Float[np.ndarray, "b e"],
) -> Float64[np.ndarray, " b"]:
    """The cosine between the changes of image and caption, of embeddings that are brought to length 1 first.

    0 where the image or the caption did not change: there is no direction then.
    """
    image, text = (
        unit_length(edited) - unit_length(source)
        for source, edited in ((source_image, edited_image), (source_text, edited_text))
    )
    return cosine_similarity(image, text)
