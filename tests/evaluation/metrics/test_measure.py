"""Measuring lists of edits: means and items, references, and an account of everything that has no value."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rewardedit_jax.evaluation.metrics import suite
from rewardedit_jax.evaluation.metrics.embedding_networks import cosine_similarity
from rewardedit_jax.evaluation.metrics.fid import frechet_distance
from rewardedit_jax.evaluation.metrics.items import MetricItem, read_items
from rewardedit_jax.evaluation.metrics.measure import measure
from rewardedit_jax.evaluation.metrics.suite import Loader, Metric

PIXELS = ["l1", "l2", "psnr", "ssim", "l1_source"]


class MeanColor:
    """An embedder of images by their mean color, and of texts by their letters; counts what it embeds."""

    def __init__(self):
        self.batches, self.texts = [], []

    def preprocess(self, image):
        if min(image.shape[:2]) < 4:
            raise ValueError(f"{image.shape[1]}×{image.shape[0]} pixels are too few")
        return np.float32(Image.fromarray(image).resize((2, 2))) / 255

    def embed(self, images):
        self.batches.append(len(images))
        return images.mean((1, 2))

    def embed_texts(self, texts):
        self.texts += texts
        return np.float32([[text.count(letter) for letter in "rgb"] for text in texts])


@pytest.fixture
def color(monkeypatch):
    """Metrics of `MeanColor` in the table: of items against target and source, of texts, and of sets."""
    network = MeanColor()
    loader = Loader("mean color", lambda _: network)
    for name, needs, compare, of_sets in (
        ("color", ("edited", "target"), cosine_similarity, False),
        ("color_source", ("edited", "source"), cosine_similarity, False),
        ("color_text", ("edited", "text"), cosine_similarity, False),
        ("color_sets", ("edited", "source"), frechet_distance, True),
    ):
        monkeypatch.setitem(suite.METRICS, name, Metric(name, "higher", loader, needs, compare, of_sets))
    return network


def save(path, *size, seed=0):
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(path)
    return path


@pytest.fixture
def items(tmp_path):
    """Five edits of two sources; the last has no target."""
    sources = [save(tmp_path / f"s{i}.png", 24, 20, seed=i) for i in range(2)]
    edits = [save(tmp_path / f"e{i}.png", 24, 20, seed=10 + i) for i in range(5)]
    targets = [save(tmp_path / f"t{i}.png", 24, 20, seed=20 + i) for i in range(4)]
    return [
        MetricItem(f"k{i}", sources[i % 2], edit, target, f"make it {'rgb'[i % 3]}")
        for i, (edit, target) in enumerate(zip(edits, [*targets, None], strict=True))
    ]


def array(path):
    return np.asarray(Image.open(path), np.float64) / 255


def test_means_items_and_intervals(items):
    report = measure(items, PIXELS, batch_size=2)
    expected = [np.abs(array(item.edited) - array(item.target)).mean() for item in items[:4]]
    l1 = report["l1"]
    assert list(l1.items) == ["k0", "k1", "k2", "k3"]
    np.testing.assert_allclose(list(l1.items.values()), expected)
    assert l1.value == pytest.approx(np.mean(expected))
    assert (l1.count, l1.better, l1.left_out) == (4, "lower", {})
    assert min(expected) <= l1.interval[0] < l1.value < l1.interval[1] <= max(expected)
    assert report["l1_source"].count == 5
    assert not report.missing


def test_the_order_of_the_list_changes_no_value(items):
    report, reverse = measure(items, PIXELS), measure(items[::-1], PIXELS)
    for found in report.measured:
        assert dict(found.items) == dict(reverse[found.name].items)
        assert found.value == pytest.approx(reverse[found.name].value, rel=1e-12)


def test_each_image_and_text_is_embedded_once(items, color):
    report = measure(items, ["color", "color_source", "color_text"], batch_size=4)
    images = {path for item in items for path in (item.source, item.edited, item.target) if path}
    assert len(images) == 11
    assert color.batches == [4, 4, 4]  # the last one filled up, so that one size is compiled
    assert sorted(color.texts) == ["make it b", "make it g", "make it r"]
    assert report["color"].count == 4
    assert report["color_source"].count == 5


def test_a_metric_of_sets_has_one_value_and_no_items(items, color):
    report = measure(items, ["color_sets"])
    vectors = [np.stack([color.embed(color.preprocess(np.asarray(Image.open(path)))[None])[0] for path in paths])
               for paths in ([item.edited for item in items], [items[0].source, items[1].source])]  # fmt: skip
    found = report["color_sets"]
    assert found.value == pytest.approx(frechet_distance(*vectors))
    assert (found.interval, found.count, found.items) == (None, 5, {})
    alone = measure(items[:1], ["color_sets"])["color_sets"]
    assert alone.value is None
    assert "two" in alone.reason


def test_clip_t_compares_with_the_caption_where_there_is_one(items, color):
    captioned = [MetricItem(**vars(items[0]) | {"edited_caption": "rrr"}), *items[1:3]]
    report = measure(captioned, ["color_text"])
    assert sorted(color.texts) == ["make it b", "make it g", "rrr"]
    assert report.texts == {"edited_caption": 1, "instruction": 2}


def test_metrics_without_weights_are_missing_and_not_zero(items, tmp_path):
    report = measure(items, ["l1", "fid", "fid_source", "lpips_vgg"])
    assert [found.name for found in report.measured] == ["l1"]
    assert "pt_inception-2015-12-05-6726825d.pth" in report.missing["fid"]
    assert "https://github.com/mseitzer/pytorch-fid" in report.missing["fid_source"]
    assert "vgg16-397923af" in report.missing["lpips_vgg"]
    assert report.to_json()["missing"].keys() == {"fid", "fid_source", "lpips_vgg"}
    with pytest.raises(KeyError, match="pt_inception"):
        report["fid"]
    assert str(tmp_path) in measure(items, ["fid"], tmp_path).missing["fid"]


def test_a_metric_that_no_item_has_the_inputs_for_is_missing(items):
    report = measure(items[4:], ["l1", "l1_source"])
    assert "target" in report.missing["l1"]
    assert report["l1_source"].count == 1


def test_unreadable_images_fail_their_items_only(items, color):
    items[1].target.write_bytes(b"no image")
    items[3].edited.unlink()
    report = measure(items, ["l1", "l1_source", "color_source"])
    assert report.notes.failed.keys() == {"k1", "k3"}
    assert "t1.png" in report.notes.failed["k1"]
    assert list(report["l1"].items) == ["k0", "k2"]
    assert list(report["l1_source"].items) == list(report["color_source"].items) == ["k0", "k2", "k4"]
    rows = report.to_json()["items"]
    assert [row["key"] for row in rows] == [f"k{i}" for i in range(5)]
    assert "error" in rows[1]
    assert "l1" not in rows[1]


def test_nothing_readable_gives_no_value(items, color):
    for item in items:
        item.source.write_bytes(b"no image")
    report = measure(items, ["l1", "color_source", "color_sets"])
    assert [found.value for found in report.measured] == [None, None, None]
    assert len(report.notes.failed) == 5
    json.dumps(report.to_json())
    assert "–" in report.to_text()


def test_odd_sizes_are_resized_and_named(items):
    save(items[0].edited, 48, 40)
    Image.open(items[1].edited).convert("L").save(items[1].edited)
    report = measure(items, PIXELS)
    assert report.notes.resized == {"k0": {"target": ((48, 40), (24, 20)), "source": ((48, 40), (24, 20))}}
    fitted = np.float64(Image.open(items[0].edited).resize((24, 20), Image.Resampling.BICUBIC)) / 255
    assert report["l1"].items["k0"] == pytest.approx(np.abs(fitted - array(items[0].target)).mean())
    assert report.notes.grayscale == ["k1"]
    text = report.to_text()
    assert "1 edited picture resized (bicubic) to the size of the target: k0." in text
    assert "1 edited picture without colour: k1." in text


def test_values_that_no_mean_takes_are_left_out_with_the_reason(items, color):
    Image.open(items[0].target).save(items[0].edited)
    for seed, path in enumerate((items[1].source, items[1].edited, items[1].target)):
        save(path, 9, 3, seed=seed)
    report = measure(items, ["psnr", "ssim", "color"])
    assert "inf" in report["psnr"].left_out["k0"]
    assert report["psnr"].count == 3
    assert "9×3" in report["ssim"].left_out["k1"]
    assert "9×3" in report["color"].left_out["k1"]
    assert list(report["color"].items) == ["k0", "k2", "k3"]
    assert "psnr: 1 item left out" in report.to_text()


def test_wrong_arguments(items):
    with pytest.raises(ValueError, match=r"lpips_alexnet.*lpips_alex,"):
        measure(items, ["lpips_alexnet"])
    with pytest.raises(ValueError, match="batch_size=0"):
        measure(items, ["l1"], batch_size=0)
    with pytest.raises(ValueError, match="nowhere"):
        measure(items, ["l1"], Path("nowhere"))
    with pytest.raises(ValueError, match="'k0'"):
        measure([*items, items[0]], ["l1"])


def write(folder, *lines):
    listing = folder / "pairs.jsonl"
    listing.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return listing


def test_lines_of_a_list(tmp_path):
    line = {"source": "a.png", "edited": "b.png", "target": None, "instruction": "make it snow"}
    full = {**line, "target": "sub/t.png", "key": "x", "source_caption": "a hill", "edited_caption": "a white hill"}
    bad = {**line, "instruction": " "}, {**line, "edited": "../b.png"}, {**line, "source_caption": "\ud800"}
    items, faults = read_items(write(tmp_path, line, full, *bad))
    assert [item.key for item in items] == ["0:b.png", "x"]
    assert items[1].target == Path(tmp_path, "sub/t.png")
    assert [item.text for item in items] == ["make it snow", "a white hill"]
    assert len(faults) == 3
    assert all(told in fault for fault, told in zip(sorted(faults), ("line 3", "../b.png", "surrogates"), strict=True))
    with pytest.raises(ValueError, match="'x'"):
        read_items(write(tmp_path, full, full))
