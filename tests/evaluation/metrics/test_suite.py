"""The table of metrics: complete, and its entries for hub networks measure from folders with the hub's names."""

import numpy as np
import pytest
from PIL import Image
from tiny_metric_models import picture, save_network

from rewardedit_jax.evaluation.metrics.clip_similarity import ClipSimilarity
from rewardedit_jax.evaluation.metrics.items import MetricItem
from rewardedit_jax.evaluation.metrics.measure import measure
from rewardedit_jax.evaluation.metrics.suite import METRICS

AGAINST_TARGET = ["l1", "l2", "psnr", "ssim", "lpips_alex", "lpips_vgg", "lpips_squeeze"]
AGAINST_TARGET += ["clip_i", "dino", "dinov2", "fid", "cmmd"]
HUB = ["clip_i", "clip_t", "clip_directional", "dino", "dinov2", "cmmd", "clip_i_source", "cmmd_source"]


def test_the_table_is_complete():
    assert set(METRICS) == {
        *AGAINST_TARGET,
        *(f"{name}_source" for name in AGAINST_TARGET),
        "clip_t",
        "clip_directional",
    }
    assert all(metric.name == name for name, metric in METRICS.items())
    assert all(METRICS[name].needs == ("edited", "target") for name in AGAINST_TARGET)
    assert all(METRICS[f"{name}_source"].loader is METRICS[name].loader for name in AGAINST_TARGET)
    needing = {name for name, metric in METRICS.items() if metric.loader.weights}
    assert set(METRICS) - needing == {f"{n}{s}" for n in ("l1", "l2", "psnr", "ssim") for s in ("", "_source")}
    assert all(
        "https://" in METRICS[name].loader.weights or "hf download" in METRICS[name].loader.weights for name in needing
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of tiny networks under the names of the published ones."""
    folder = tmp_path_factory.mktemp("weights")
    for name, directory in (
        ("clip", "clip-vit-base-patch32"),
        ("clip", "clip-vit-large-patch14-336"),
        ("dino", "dino-vits16"),
        ("dinov2", "dinov2-base"),
    ):
        save_network(name, folder / directory)
    return folder


@pytest.fixture
def items(tmp_path):
    """Three edits; the first is equal to its target."""
    for i, name in enumerate(("source", "t0", "e1", "t1", "e2")):
        Image.fromarray(picture(40, 50, seed=i)).save(tmp_path / f"{name}.png")
    captions = {"source_caption": "a red circle", "edited_caption": "a blue square"}
    source, instruction = tmp_path / "source.png", "make it blue"
    return [
        MetricItem("same", source, tmp_path / "t0.png", tmp_path / "t0.png", instruction, **captions),
        MetricItem("other", source, tmp_path / "e1.png", tmp_path / "t1.png", instruction, **captions),
        MetricItem("bare", source, tmp_path / "e2.png", None, instruction),
    ]


def test_networks_of_the_hub(items, weights):
    report = measure(items, HUB, weights, batch_size=2)
    assert not report.missing
    for name in ("clip_i", "dino", "dinov2"):
        assert list(report[name].items) == ["same", "other"]
        assert report[name].items["same"] == pytest.approx(1, abs=1e-6)
        assert report[name].items["other"] < 1 - 1e-6
    assert list(report["clip_directional"].items) == ["same", "other"]
    assert list(report["clip_t"].items) == ["same", "other", "bare"]
    assert report["cmmd"].value > 0
    assert report["cmmd_source"].count == 3
    assert report.texts == {"edited_caption": 2, "instruction": 1}


def test_clip_t_is_the_cosine_of_image_and_text(items, weights):
    network = ClipSimilarity.load(weights / "clip-vit-base-patch32")
    image = network.embed(network.preprocess(np.asarray(Image.open(items[2].edited)))[None])[0]
    text = network.embed_texts([items[2].instruction])[0]
    expected = image @ text / np.linalg.norm(image) / np.linalg.norm(text)
    assert measure(items, ["clip_t"], weights)["clip_t"].items["bare"] == pytest.approx(expected, rel=1e-5)


def test_a_folder_that_is_missing_or_incomplete_is_named(items, weights, tmp_path):
    (tmp_path / "dino-vits16").mkdir()
    missing = measure(items, ["dino", "dinov2"], tmp_path).missing
    assert "facebook/dino-vits16" in missing["dino"]
    assert "hf download facebook/dinov2-base" in missing["dinov2"]
