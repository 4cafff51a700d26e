"""`launch/evaluate.py metrics` as a user calls it."""

import json
import runpy
import shutil
import sys

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

EVALUATE = str(ROOT / "launch" / "evaluate.py")


@pytest.fixture
def evaluate(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "metrics", *map(str, arguments)])
        runpy.run_path(EVALUATE, run_name="__main__")

    return run


@pytest.fixture
def pairs(tmp_path):
    """A list of three edits; the picture of the last edit is damaged."""
    rng = np.random.default_rng(0)
    for name in ("source", "target", "edited0", "edited1"):
        Image.fromarray(rng.integers(0, 256, (40, 32, 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "edited2.png").write_bytes(b"no image")
    line = {"source": "source.png", "target": "target.png", "instruction": "make it snow"}
    listing = tmp_path / "pairs.jsonl"
    listing.write_text("".join(json.dumps({**line, "edited": f"edited{i}.png"}) + "\n" for i in range(3)))
    return listing


def test_every_metric_has_a_number_or_a_reason(evaluate, pairs, tmp_path, capsys):
    out = tmp_path / "out.json"
    evaluate("--pairs", pairs, "--json", out, "--skip-bad", 1)
    found = json.loads(out.read_text())
    computed = {f"{name}{against}" for name in ("l1", "l2", "psnr", "ssim") for against in ("", "_source")}
    assert found["metrics"].keys() == computed
    assert all(metric["items"] == 2 and metric["value"] is not None for metric in found["metrics"].values())
    assert {"fid", "lpips_alex", "lpips_vgg_source"} <= found["missing"].keys()
    lacks_captions = found["missing"].pop("clip_directional")
    assert "source caption" in lacks_captions
    assert all("https://" in reason or "hf download" in reason for reason in found["missing"].values())
    assert not found["missing"].keys() & found["metrics"].keys()
    assert [item["key"] for item in found["items"]] == [f"{i}:edited{i}.png" for i in range(3)]
    assert 0 < found["items"][0]["l1"] < 1
    assert "edited2.png" in found["failed"]["2:edited2.png"]
    told = capsys.readouterr()
    assert "missing: fid, fid_source: " in told.out
    assert "2:edited2.png" in told.err


def test_a_bad_item_fails_the_command_after_the_numbers_are_out(evaluate, pairs, tmp_path):
    out = tmp_path / "out.json"
    with pytest.raises(SystemExit, match=r"1 of 3 items were not measured(.|\n)*edited2\.png"):
        evaluate("--pairs", pairs, "--metrics", "l1", "--json", out)
    assert json.loads(out.read_text())["metrics"]["l1"]["items"] == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--metrics", "l7"], "invalid choice"), (["--batch-size", "0"], "1 or more"), (["--json", "gs://b/o"], "URL")],
)
def test_wrong_arguments_are_refused(evaluate, pairs, capsys, arguments, told):
    with pytest.raises(SystemExit):
        evaluate("--pairs", pairs, *arguments)
    assert told in capsys.readouterr().err


def test_lpips_with_the_real_weights(evaluate, shared_data, tmp_path):
    for name in ("ref", "p0", "p1"):
        shutil.copy(shared_data / "lpips" / f"ex_{name}.png", tmp_path)
    line = {"source": "ex_ref.png", "instruction": "restore it", "target": "ex_ref.png"}
    listing, out = tmp_path / "pairs.jsonl", tmp_path / "out.json"
    edits = ("ex_p0.png", "ex_p1.png", "ex_ref.png")
    listing.write_text("".join(json.dumps({**line, "edited": edit}) + "\n" for edit in edits))
    weights = shared_data / "lpips"
    evaluate("--pairs", listing, "--weights", weights, "--json", out, "--metrics", "lpips_alex", "lpips_alex_source")
    found = json.loads(out.read_text())
    for name in ("lpips_alex", "lpips_alex_source"):
        np.testing.assert_allclose([item[name] for item in found["items"]], [0.7219, 0.1376, 0], atol=1e-4)
        assert found["metrics"][name]["value"] == pytest.approx((0.7219 + 0.1376) / 3, abs=1e-4)
