"""Images as networks take them, against transformers' image processors with Pillow."""

import numpy as np
import pytest
from PIL import Image
from tiny_metric_models import SHAPES, picture

from rewardedit_jax.data.images import upright_rgb
from rewardedit_jax.evaluation.metrics.image_inputs import CLIP, IMAGENET, normalise, resize_and_crop

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle

IMAGES = {f"{height}×{width}": Image.fromarray(picture(height, width)) for height, width in SHAPES}
IMAGES["grey"] = Image.fromarray(picture(61, 83)[..., 0])
IMAGES["palette"] = Image.fromarray(picture(50, 75)).quantize(32)


def processed(processor, image):
    return processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("size", [224, 336])
def test_clip(name, size):
    sizes = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    expected = processed(transformers.CLIPImageProcessorPil(**sizes), IMAGES[name])
    ours = normalise(resize_and_crop(np.asarray(upright_rgb(IMAGES[name])), size, size), CLIP)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("name", IMAGES)
def test_dino(name):
    """The settings in the preprocessor_config.json of DINOv2."""
    processor = transformers.BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=list(IMAGENET.mean),
        image_std=list(IMAGENET.std),
    )
    ours = normalise(resize_and_crop(np.asarray(upright_rgb(IMAGES[name])), 256, 224), IMAGENET)
    np.testing.assert_allclose(ours, processed(processor, IMAGES[name]), atol=1e-6)
