"""DINO and DINOv2 similarity: loading, preprocessing, the class token."""

import numpy as np
import pytest
from tiny_metric_models import NETWORKS, applied, picture, save_network

from rewardedit_jax.evaluation.metrics.dino_similarity import DinoSimilarity, Dinov2Similarity
from rewardedit_jax.evaluation.metrics.embedding_networks import cosine_similarity
from rewardedit_jax.weights.files import WeightFileError

METRICS = {"dino": DinoSimilarity, "dinov2": Dinov2Similarity}


@pytest.fixture(scope="module", params=METRICS)
def loaded(request, tmp_path_factory):
    name = request.param
    return name, METRICS[name].load(save_network(name, tmp_path_factory.mktemp(name)))


def test_the_embedding_is_the_class_token(loaded):
    name, metric = loaded
    images = np.stack([metric.preprocess(picture(*shape)) for shape in ((50, 61), (300, 280))])
    assert images.shape == (2, 224, 224, 3)
    states = applied(NETWORKS[name], metric.params, images)
    np.testing.assert_allclose(metric.embed(images), states[:, 0], rtol=1e-4, atol=1e-5)


def test_the_same_image_is_most_similar(loaded):
    _, metric = loaded
    first, second = (metric.embed(metric.preprocess(picture(90, 70, seed))[None]) for seed in (0, 1))
    np.testing.assert_allclose(cosine_similarity(first, first), 1, atol=1e-12)
    assert cosine_similarity(first, second)[0] < 1 - 1e-6


@pytest.mark.parametrize(("metric", "hub_id"), [("dino", "facebook/dino-vits16"), ("dinov2", "facebook/dinov2-base")])
def test_a_missing_model_says_where_it_is(metric, hub_id, tmp_path):
    with pytest.raises(FileNotFoundError, match=hub_id):
        METRICS[metric].load(tmp_path)


def test_the_other_network_is_refused(tmp_path):
    save_network("dino", tmp_path)
    with pytest.raises(WeightFileError, match="holds a ViTModel: expected a Dinov2Model"):
        Dinov2Similarity.load(tmp_path)
