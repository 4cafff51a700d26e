"""Whole metrics, from pictures to numbers, against transformers' image processors and PyTorch networks."""

import numpy as np
import pytest
from PIL import Image
from tiny_metric_models import picture, save_network

from rewardedit_jax.evaluation.metrics.clip_similarity import ClipSimilarity, directional_similarity
from rewardedit_jax.evaluation.metrics.dino_similarity import DinoSimilarity, Dinov2Similarity
from rewardedit_jax.evaluation.metrics.embedding_networks import cosine_similarity
from rewardedit_jax.evaluation.metrics.image_inputs import IMAGENET

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle

PICTURES = [picture(90, 131, seed=0), picture(90, 131, seed=1), picture(64, 48, seed=2)]
TEXTS = ["make the circle red", "add a star", "remove the square"]
cosine = torch.nn.functional.cosine_similarity


def ours(metric):
    return metric.embed(np.stack([metric.preprocess(image) for image in PICTURES]))


def pixel_values(processor):
    return processor([Image.fromarray(image) for image in PICTURES], return_tensors="pt")["pixel_values"]


def assert_same_cosines(ours, theirs):
    """Each picture with the next one."""
    expected = cosine(theirs, theirs.roll(-1, 0)).detach()
    np.testing.assert_allclose(cosine_similarity(ours, np.roll(ours, -1, axis=0)), expected, rtol=1e-4)


def test_clip(tmp_path):
    clip = ClipSimilarity.load(save_network("clip", tmp_path))
    oracle = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    images = oracle.get_image_features(pixel_values(transformers.CLIPImageProcessorPil(**sizes))).pooler_output
    assert_same_cosines(ours(clip), images)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    tokens = tokenizer(TEXTS, padding="max_length", return_tensors="pt")
    texts = oracle.get_text_features(tokens["input_ids"]).pooler_output
    our_texts = clip.embed_texts(TEXTS)
    expected = cosine(images, texts).detach()
    np.testing.assert_allclose(cosine_similarity(ours(clip), our_texts), expected, rtol=1e-4)
    image, text = (torch.nn.functional.normalize(x) for x in (images, texts))
    expected = cosine(image[1:] - image[:-1], text[1:] - text[:-1]).detach()
    found = directional_similarity(ours(clip)[:-1], ours(clip)[1:], our_texts[:-1], our_texts[1:])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["dino", "dinov2"])
def test_class_tokens(name, tmp_path):
    kind, options, metric = {
        "dino": (transformers.ViTModel, {"add_pooling_layer": False}, DinoSimilarity),
        "dinov2": (transformers.Dinov2Model, {}, Dinov2Similarity),
    }[name]
    metric = metric.load(save_network(name, tmp_path))
    oracle = kind.from_pretrained(tmp_path, **options).eval()
    processor = transformers.BitImageProcessorPil(
        size={"shortest_edge": 256}, image_mean=list(IMAGENET.mean), image_std=list(IMAGENET.std)
    )
    call = {"interpolate_pos_encoding": True} if name == "dino" else {}
    assert_same_cosines(ours(metric), oracle(pixel_values(processor), **call).last_hidden_state[:, 0])
