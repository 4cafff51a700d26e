"""Scored edits in a table and on a sheet."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rewardedit_jax.evaluation.ranking import MAX_EDITS, best_first, draw_ranking, ranking_text, report_scores
from rewardedit_jax.scoring.edit_score import EditScore, Unscorable
from rewardedit_jax.scoring.files import ScoreJob


def score(mean, **more):
    raw = np.array([[mean, 0], [mean, 0]], np.float32)
    return EditScore(raw, raw[0], **more)


@pytest.fixture
def red_and_blue(tmp_path):
    """A grey source; the red edit is better than the blue one."""
    files = {}
    for name, color in {"source": (128, 128, 128), "red": (255, 0, 0), "blue": (0, 0, 255)}.items():
        files[name] = str(tmp_path / f"{name}.png")
        Image.new("RGB", (20, 10), color).save(files[name])
    jobs = {name: ScoreJob(files["source"], files[name], "make it red") for name in ("blue", "red")}
    return [(jobs["blue"], score(-1.0)), (jobs["red"], score(1.0, improvement=2.0, composited=("edited",)))]


def test_the_table_begins_with_the_best(red_and_blue):
    lines = ranking_text(best_first(red_and_blue)).splitlines()
    assert "red.png" in lines[2]
    assert "92%" in lines[2]  # two standard Gaussians, two apart: Φ(2 / √2)
    assert "+2.00" in lines[2]
    assert "blue.png" in lines[3]
    assert "red.png: transparent parts of edited" in lines[4]


def test_the_calibration_is_stated_once(red_and_blue):
    ranked = [(job, replace(measured, calibrated=0.5, calibration="our edits")) for job, measured in red_and_blue]
    assert ranking_text(ranked).splitlines().count("calibrated: share of our edits with a lower score.") == 1


def test_the_sheet_shows_source_and_edits_in_order(red_and_blue):
    picture = np.asarray(draw_ranking(best_first(red_and_blue)))

    def first_column(color):
        return np.flatnonzero((picture == color).all(axis=2).any(axis=0)).min()

    places = [first_column(color) for color in ((128, 128, 128), (255, 0, 0), (0, 0, 255))]
    assert places == sorted(places)
    assert (picture == (255, 0, 0)).all(axis=2).sum() == 192 * 96  # 20 × 10, brought to the width of a column


def test_the_sheet_has_a_row_for_each_source(red_and_blue, tmp_path):
    one = draw_ranking(best_first(red_and_blue))
    other = [(ScoreJob(job.source, job.edited, "make it blue"), measured) for job, measured in red_and_blue]
    two = draw_ranking(best_first([*red_and_blue, *other]))
    assert two.width == one.width
    assert two.height - 40 == 2 * (one.height - 40)


def test_a_sheet_has_a_largest_width(red_and_blue):
    (job, _), *_ = red_and_blue
    many = [(job, score(float(i))) for i in range(9)]
    few = many[:MAX_EDITS]
    assert draw_ranking(many).size == draw_ranking(few).size


def test_a_sheet_that_cannot_be_drawn_does_not_hide_the_unscored(red_and_blue, tmp_path):
    """The source was removed while the edits were scored."""
    (tmp_path / "source.png").unlink()
    unscored = ScoreJob(str(tmp_path / "source.png"), "green.png", "make it red"), Unscorable("the reason")
    with pytest.raises(
        OSError, match=r"(?s)sheet.png was not drawn: .*source.png.*1 edit without.*green.png: the reas"
    ):
        report_scores([*red_and_blue, unscored], None, tmp_path / "sheet.png")
