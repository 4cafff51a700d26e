"""The table of following by edit type, from made-up scores, and the whole report from made-up results."""

import numpy as np
import pytest

from rewardedit_jax.shapes.editor_benchmark import Result, held_out_scenes, score
from rewardedit_jax.shapes.reader_report import compare_following, report_readers

TYPES = ("local", "style", "local", "add")


def scores_of(*following):
    """Scores of seeds × scenes, whose other perspectives must not count."""
    scores = np.full((*np.shape(following), 3), 9.0)
    scores[..., 0] = following
    return scores


def test_gains_are_paired_within_an_edit_type():
    blind, seeing = scores_of([1, 4, 3, 2], [1, 2, 3, 0]), scores_of([2, 3, 5, 2], [3, 3, 5, 4])
    found = compare_following({"blind": blind, "seeing": seeing}, TYPES)
    assert found.counts == {"single objects": 3, "local": 2, "add": 1, "style": 1}
    assert found.means["local"]["blind"].per_seed == (2, 2)
    assert found.gains["local"]["seeing"].per_seed == (1.5, 2)
    assert found.gains["single objects"]["seeing"].per_seed == pytest.approx((1, 8 / 3))
    assert found.gains["style"]["seeing"].per_seed == (-1, 1)
    assert all(list(gains) == ["seeing"] for gains in found.gains.values())


def test_table_names_types_and_counts():
    text = compare_following({"blind": scores_of([1, 4, 3, 2]), "seeing": scores_of([2, 3, 5, 2])}, TYPES).table()
    assert text.heading == ["edit type", "blind", "seeing", "Δ seeing"]
    assert text.rows[1] == ["local (2)", "2.00 [1.00, 3.00]", "3.50 [2.00, 5.00]", "+1.50 [+1.00, +2.00]"]


def test_report_of_results(tmp_path):
    scenes, files = held_out_scenes(16), {}
    for arm, name in (("text encoder", "edited"), ("language model", "ideal")):
        pictures = np.stack([getattr(scene, name) for scene in scenes])
        Result({"none": score(pictures, scenes)}, {"none": pictures}).save(tmp_path / arm, {})
        files[arm] = [tmp_path / arm / "result.json"]
    table, written = report_readers(tmp_path, files, 16)
    assert [file.name for file in written] == ["grid.png"]
    gain = table.details["following"]["single objects"]["gains"]["language model"]["mean"]
    assert gain == pytest.approx(
        5 - np.mean([s for s, scene in zip(Result.load(tmp_path / "text encoder").scores["none"][:, 0], scenes,
                                           strict=True) if scene.edit_type in ("local", "remove", "add", "texture")])
    )  # fmt: skip
    assert "edit type" in table.to_text()
