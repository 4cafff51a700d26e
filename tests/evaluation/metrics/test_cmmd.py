"""CMMD: the formula in float64, block by block; properties; its network."""

import numpy as np
import pytest
from PIL import Image
from tiny_metric_models import CLIP, applied, picture, save_network

from rewardedit_jax.evaluation.metrics import cmmd as cmmd_module
from rewardedit_jax.evaluation.metrics.cmmd import CMMDNetwork, cmmd
from rewardedit_jax.models.clip import CLIPModel


def embeddings(n, seed, shift=0.0, width=32):
    """Vectors of length 1 around a common direction, as CLIP's are."""
    x = np.random.default_rng(seed).standard_normal((n, width))
    x[:, 0] += 6
    x[:, 1] += shift
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def direct(x, y):
    """The definition: means of the kernel over all pairs of differences."""

    def mean(a, b):
        differences = a[:, None].astype(np.float64) - b[None].astype(np.float64)
        return np.exp(-(differences**2).sum(axis=-1) / (2 * 10**2)).mean()

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


@pytest.mark.parametrize("block", [1, 7, 50, 1000])
def test_blocks_make_no_difference(block, monkeypatch):
    monkeypatch.setattr(cmmd_module, "_BLOCK", block)
    x, y = embeddings(50, 0), embeddings(33, 1, shift=1)
    assert cmmd(x, y) == pytest.approx(direct(x, y), abs=1e-9)


def test_the_published_formula_in_float32_comes_close():
    """It expands the squares of differences and rounds all means to float32."""
    x, y = embeddings(300, 0), embeddings(200, 1, shift=1)

    def mean(a, b):
        squares = -2 * a @ b.T + (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
        return np.exp(np.float32(-1 / 200) * squares).mean(dtype=np.float32)

    published = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert published.dtype == np.float32
    assert cmmd(x, y) == pytest.approx(published, abs=5e-4)


def test_two_images():
    """At right angles, the squared distance is 2: 1000 (1 + 1 - 2 exp(-2 / 200))."""
    x, y = np.eye(2, dtype=np.float32)[:, None]
    assert cmmd(x, y) == pytest.approx(2000 * (1 - np.exp(-0.01)), rel=1e-12)


def test_equal_sets_have_no_distance():
    x = embeddings(60, 0)
    assert cmmd(x, x.copy()) == pytest.approx(0, abs=1e-9)
    assert cmmd(x, x[::-1]) == pytest.approx(0, abs=1e-9)
    assert cmmd(x, np.repeat(x, 2, axis=0)) == pytest.approx(0, abs=1e-9)


def test_it_is_symmetric_and_grows_with_a_shift():
    x = embeddings(80, 0)
    distances = [cmmd(x, embeddings(70, 1, shift)) for shift in (0, 1, 2, 4, 8)]
    assert distances == sorted(distances)
    assert distances[0] > 0
    y = embeddings(70, 1, shift=2)
    assert cmmd(x, y) == pytest.approx(cmmd(y, x), abs=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((0, 4)), np.zeros((3, 4)), r"x has shape \(0, 4\)"),
        (np.zeros((3, 4)), np.zeros((3, 5)), r"y has shape \(3, 5\): expected \(images, 4\)"),
        (np.zeros((3, 4)), np.zeros(4), r"y has shape \(4,\)"),
        (np.zeros((3, 4)), np.full((1, 4), np.nan), "y has values that are not finite"),
    ],
)
def test_sets_that_cannot_be_compared(x, y, message):
    with pytest.raises(ValueError, match=message):
        cmmd(x, y)


def test_the_network_gives_embeddings_of_length_1(tmp_path):
    network = CMMDNetwork.load(save_network("clip", tmp_path))
    assert network.params.keys() == {"vision"}  # the text tower is not read
    images = np.stack([network.preprocess(picture(*shape)) for shape in ((30, 45), (51, 20))])
    raw = applied(CLIP, network.params, images, CLIPModel.embed_images)
    out = network.embed(images)
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(out, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


def test_the_central_square_is_cropped_before_it_is_resized(tmp_path):
    network = CMMDNetwork.load(save_network("clip", tmp_path))
    image = picture(41, 60)
    square = Image.fromarray(image[:, 9:50]).resize((16, 16), Image.Resampling.BICUBIC)
    expected = (np.asarray(square) / 255 - (0.48145466, 0.4578275, 0.40821073)) / (0.26862954, 0.26130258, 0.27577711)
    np.testing.assert_allclose(network.preprocess(image), expected, atol=1e-6)


def test_a_missing_model_says_where_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="openai/clip-vit-large-patch14-336"):
        CMMDNetwork.load(tmp_path)
