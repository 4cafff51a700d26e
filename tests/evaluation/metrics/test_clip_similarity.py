"""CLIP-I, CLIP-T and directional similarity: loading, texts that are cut, closed forms."""

import json

import numpy as np
import pytest
from tiny_metric_models import CLIP, applied, picture, save_network
from tiny_models import assert_same, draw

from rewardedit_jax.evaluation.metrics.clip_similarity import ClipSimilarity, directional_similarity
from rewardedit_jax.evaluation.metrics.embedding_networks import cosine_similarity
from rewardedit_jax.models.clip import CLIPModel
from rewardedit_jax.weights.files import WeightFileError


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_network("clip", tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(directory):
    return ClipSimilarity.load(directory)


def test_what_was_saved_is_loaded(clip):
    assert clip.module == CLIP
    assert_same(clip.params, draw(CLIP))


def test_embeddings_are_those_of_the_network(clip):
    images = np.stack([clip.preprocess(picture(*shape)) for shape in ((20, 31), (16, 16), (80, 9))])
    assert images.shape == (3, 16, 16, 3)
    assert images.dtype == np.float32
    expected = applied(CLIP, clip.params, images, CLIPModel.embed_images)
    np.testing.assert_allclose(clip.embed(images), expected, rtol=1e-5, atol=1e-6)


def test_texts_of_any_length_are_embedded_alike(clip):
    """Padding does not matter: the embedding is that of the end token, which sees nothing behind it."""
    together = clip.embed_texts(["make the circle red", "add a star"])
    np.testing.assert_allclose(clip.embed_texts(["add a star"]), together[1:], atol=1e-5)
    assert cosine_similarity(together[:1], together[1:])[0] < 0.999


def test_texts_that_are_too_long_are_cut_and_counted(directory):
    clip = ClipSimilarity.load(directory)
    long = "red circle " * 60
    kept = "red circle " * 30
    short, cut, cut_too = clip.embed_texts(["add a star", long, kept])
    assert clip.cut_texts.count == 2
    np.testing.assert_array_equal(cut, cut_too)
    assert not np.allclose(short, cut)


def test_a_missing_model_says_where_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no directory .*openai/clip-vit-base-patch32"):
        ClipSimilarity.load(tmp_path / "clip")
    with pytest.raises(FileNotFoundError, match=r"no config\.json.*openai/clip-vit-base-patch32"):
        ClipSimilarity.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"no weights\. .*openai/clip-vit-base-patch32"):
        ClipSimilarity.load(tmp_path)


def test_a_missing_tokenizer_is_named(directory, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(directory / name)
    with pytest.raises(FileNotFoundError, match=r"vocab\.json"):
        ClipSimilarity.load(tmp_path)


def test_another_network_is_refused(directory, tmp_path):
    for file in directory.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    config = CLIP.config.vision.to_hf() | {"architectures": ["CLIPVisionModelWithProjection"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightFileError, match="holds a CLIPVisionModel: expected a CLIPModel"):
        ClipSimilarity.load(tmp_path)


def test_cosines():
    a = np.array([[1, 0], [3, 4], [2, 2], [0, 0]], np.float32)
    b = np.array([[0, 5], [3, 4], [-1, -1], [1, 2]], np.float32)
    np.testing.assert_allclose(cosine_similarity(a, b), [0, 1, -1, 0], atol=1e-12)


def test_direction_of_a_change():
    """Images and texts move on the unit circle by these angles."""
    at = lambda *angles: np.stack([np.cos(angles), np.sin(angles)], axis=1) * 7  # noqa: E731
    source, edited = at(0, 0, 0, 1), at(0.5, 0.5, 0.5, 1)
    text, asked = at(0, 1, 0, 0), at(0.5, 0.5, -0.5, 2)
    # The chord from angle a to angle b has the direction (a + b) / 2 ± π / 2.
    expected = [1, np.cos(0.25 - (0.75 - np.pi)), np.cos(0.25 - (-0.25 - np.pi)), 0]
    np.testing.assert_allclose(directional_similarity(source, edited, text, asked), expected, atol=1e-12)


def test_direction_does_not_depend_on_lengths():
    rng = np.random.default_rng(0)
    vectors = [rng.standard_normal((5, 8)) for _ in range(4)]
    scaled = [rng.uniform(0.1, 9, (5, 1)) * x for x in vectors]
    np.testing.assert_allclose(directional_similarity(*scaled), directional_similarity(*vectors), atol=1e-12)
