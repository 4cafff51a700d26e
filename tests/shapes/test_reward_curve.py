"""The curve of a reward-conditioned editor: numbers against made-up scores, and what is drawn of them."""

import io

import numpy as np
import pytest
from PIL import Image

from rewardedit_jax.shapes.asked import ASKED, LEVELS
from rewardedit_jax.shapes.reward_curve import draw_curve, make_curve

SCENES = 12


def made_up(noise=0.0, seeds=2):
    """Label → scores of an editor that does half of what it is asked for; "5" and "0" have more scenes."""
    rng = np.random.default_rng(0)
    counts = {"5": 2 * SCENES, "0": 2 * SCENES}
    return {
        label: np.float32(1 + np.asarray(asked) / 2 + noise * rng.normal(size=(seeds, counts.get(label, SCENES), 3)))
        for label, asked in ASKED.items()
    }


def references():
    return {"without reward": np.full((2, 2 * SCENES, 3), 2.0, np.float32),
            "imperfect edits": np.full((1, 2 * SCENES, 3), 1.5, np.float32)}  # fmt: skip


@pytest.fixture(scope="module")
def curve():
    return make_curve("reward", made_up(0.3), references())


def test_points_are_means_of_the_scenes_that_all_labels_share():
    scores = made_up()
    scores["5"][:, SCENES:] = 0
    found = make_curve("reward", scores, references())
    assert (found.scenes, found.seeds) == (SCENES, 2)
    assert found.points["5"].mean == pytest.approx((3.5, 3.5, 3.5))
    assert found.points["preserving 0"].mean == pytest.approx((3.5, 1, 3.5))
    assert found.references["without reward"] == pytest.approx((2, 2, 2))


def test_equal_scores_have_an_interval_of_no_width():
    point = make_curve("reward", made_up(), {}).points["2"]
    assert point.low == pytest.approx(point.mean)
    assert point.high == pytest.approx(point.mean)


def test_intervals_are_over_scenes_of_the_means_over_seeds(curve):
    """Seeds of opposite errors have scenes of equal means, hence no interval."""
    for i in range(3):
        point = curve.points["4"]
        assert point.low[i] < point.mean[i] < point.high[i]
        assert point.high[i] - point.low[i] == pytest.approx(4 * 0.3 / (2 * SCENES) ** 0.5, rel=0.6)
    scores = made_up(seeds=2)
    error = np.random.default_rng(1).normal(size=scores["4"][0].shape)
    scores["4"] += np.float32([error, -error])
    point = make_curve("reward", scores, {}).points["4"]
    assert point.high == pytest.approx(point.low, abs=1e-5)


def test_changes_are_paired_by_scene():
    """Scenes differ much, and all lose the same by a reward of 0."""
    scores = {label: array + np.arange(array.shape[1])[:, None] for label, array in made_up().items()}
    curve = make_curve("reward", scores, {})
    assert list(curve.changes) == ["following 0", "preserving 0", "quality 0"]
    change, point = curve.changes["quality 0"], curve.points["quality 0"]
    for values in (change.mean, change.low, change.high):
        assert values == pytest.approx((0, 0, -2.5))
    assert point.high[2] - point.low[2] > 2


def test_labels_that_were_not_evaluated_are_left_out():
    scores = {label: made_up()[label] for label in ("5", "3", "0")}
    curve = make_curve("reward", scores, references())
    assert list(curve.points) == ["5", "3", "0"]
    pytest.importorskip("matplotlib")
    assert len(draw_curve(curve).axes[1].patches) == 3


def test_lines_and_bars_have_the_places_of_their_numbers(curve):
    pytest.importorskip("matplotlib")
    left, right = draw_curve(curve).axes
    for i, (line, *_) in enumerate(left.containers):
        np.testing.assert_allclose(line.get_xdata(), range(6), atol=0.1)
        np.testing.assert_allclose(line.get_ydata(), [curve.points[label].mean[i] for label in reversed(LEVELS)])
    heights = [bar.get_height() for bar in right.patches]
    labels = ["5", "following 0", "preserving 0", "quality 0"]
    np.testing.assert_allclose(heights, np.transpose([curve.points[label].mean for label in labels]).ravel())
    names = [text.get_text().splitlines() for text in right.get_xticklabels()]
    assert [name for name, *_ in names] == ["5/5/5", "0/5/5", "5/0/5", "5/5/0"]
    change = curve.changes["preserving 0"]
    assert " ".join(names[2][1:]) == f"{change.mean[1]:+.2f} [{change.low[1]:+.2f}, {change.high[1]:+.2f}]"


def test_intervals_are_drawn(curve):
    pytest.importorskip("matplotlib")
    left, right = draw_curve(curve).axes
    for i, container in enumerate(left.containers):
        (bars,) = container[2]
        ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
        expected = [(curve.points[label].low[i], curve.points[label].high[i]) for label in reversed(LEVELS)]
        np.testing.assert_allclose(ends, expected)
    assert len([container for container in right.containers if hasattr(container, "has_yerr")]) == 3


def test_the_page_has_the_width_of_a_readme(curve):
    pytest.importorskip("matplotlib")
    file = io.BytesIO()
    draw_curve(curve).savefig(file, format="png", dpi=110)
    picture = Image.open(file).convert("RGB")
    assert 950 <= picture.width <= 1200
    pixels = np.asarray(picture)
    for color in ((0, 114, 178), (213, 94, 0), (0, 158, 115)):
        assert (pixels == color).all(axis=2).sum() > 1000


def test_names_of_lines_are_in_the_legend(curve):
    pytest.importorskip("matplotlib")
    figure = draw_curve(curve)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["following", "preserving", "quality", "without reward", "imperfect edits"]
