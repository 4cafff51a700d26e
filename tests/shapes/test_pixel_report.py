"""Metrics of pixels: made-up edits that are ideal, imperfect or missing."""

import numpy as np
import pytest

from rewardedit_jax.shapes import pixel_report as module
from rewardedit_jax.shapes.editor_benchmark import BASELINE, FULL, NO_REWARD, Result, held_out_scenes, score
from rewardedit_jax.shapes.pixel_report import report_existing_metrics, report_pixels

COUNT = 8


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Arm → result.json of two seeds."""
    folder, scenes = tmp_path_factory.mktemp("results"), held_out_scenes(COUNT)
    shown = {BASELINE: {NO_REWARD: "edited"}, FULL: {"5": "ideal", "3": "edited", "0": "source"}}
    for arm, labels in shown.items():
        pictures = {label: np.stack([getattr(s, name) for s in scenes]) for label, name in labels.items()}
        result = Result({label: score(found, scenes) for label, found in pictures.items()}, pictures)
        for seed in range(2):
            result.save(folder / arm / str(seed), {})
    return {arm: [folder / arm / str(seed) / "result.json" for seed in range(2)] for arm in shown}


def test_distances_to_the_ideal_edit(results, tmp_path):
    table, files = report_pixels(tmp_path, results, COUNT)
    ideal, missing, unchanged = table.line(FULL, "5"), table.line(FULL, "0"), table.line("source, unchanged")
    assert (ideal.values["L1"].mean, ideal.values["PSNR"].mean) == (0, module._MOST_DB)
    for name, value in missing.values.items():
        assert value.mean == pytest.approx(unchanged.values[name].mean)
    assert ideal.gains["L1"].mean < 0 < ideal.gains["PSNR"].mean
    assert [file.name for file in files] == ["grid.png"]


def test_metrics_beside_the_oracle(results, tmp_path):
    table, _ = report_existing_metrics(tmp_path, results, COUNT)
    to_ideal, to_source = (table.line(f"L1 to the {name}").values for name in ("ideal", "source"))
    # What is near the ideal edit follows the instruction; what is near the source preserves it, but does not follow.
    assert to_ideal["following"].mean > 0.5
    assert to_source["following"].mean < 0 < to_source["preserving"].mean
    assert all(low <= value.mean <= high for value in to_ideal.values() for low, high in [value.interval])
    assert "(1)" in next(line for line in table.to_text().splitlines() if line.startswith(f"{FULL} 5"))


def test_ssim_is_left_out_without_scikit_image(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert module.metrics() == ["L1", "L2", "PSNR"]
    assert "scikit-image" in module._missing_note()[0]
