"""The report of a labelling: counts, distribution, frequent words, and agreement with ratings."""

import json

import numpy as np
import pytest
from paths import SHARED_DATA

from rewardedit_jax.data.labels import Label, Unanswered
from rewardedit_jax.evaluation.label_report import draw_label_report, frequent_words, ordinal_alpha, report_labels
from rewardedit_jax.evaluation.reward_models.imagenhub import read_ratings


def label(key: str, scores, feedback=("None", "None", "None"), failures=()) -> Label:
    return Label(key, scores, feedback, tuple(Unanswered(*failure) for failure in failures))


@pytest.fixture
def report():
    labels = [
        label("a", (5, 4, 0), ("None", "the sky turned grey", "blocks")),
        label("b", (5, None, 2), ("None", None, "Blocks, noise"), [("preserving", "refused")]),
        label("c", (1, None, 5), ("no snow", None, "None"), [("preserving", "truncated")]),
    ]
    return report_labels(labels)


def test_counts(report):
    assert (report.edits, report.complete) == (3, 1)
    assert report.scores == {"following": [5, 5, 1], "preserving": [4], "quality": [0, 2, 5]}
    assert report.failures == {"following": {}, "preserving": {"refused": 1, "truncated": 1}, "quality": {}}
    assert report.to_json()["histogram_of_scores_0_to_5"]["following"] == [0, 1, 0, 0, 0, 2]
    json.dumps(report.to_json())


def test_a_failure_is_never_a_score(report):
    """Unanswered perspectives are not in the mean: 4, and not 4/3."""
    line = next(line for line in report.to_text().splitlines() if line.startswith("preserving"))
    assert line.split()[:5] == ["preserving", "1", "1", "1", "4.00"]


def test_words_are_counted_once_per_text_and_without_stop_words():
    texts = ["The sky is grey, the grey sky", "a grey cat", "None", None]
    assert frequent_words(texts) == [("grey", 2), ("cat", 1), ("sky", 1)]


def test_a_perspective_without_answers_has_a_row():
    text = report_labels([label("a", (None, 3, 3), (None, "x", "y"), [("following", "refused")])]).to_text()
    assert "following    0         1        –" in text


def test_agreement_of_equal_and_of_opposite_ratings():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, 3)).astype(float)
    labels = [label(str(i), tuple(row)) for i, row in enumerate(scores)]
    ratings = np.stack([scores[:, 0], 5 - scores[:, 1], np.where(np.arange(40) < 30, scores[:, 2], np.nan)], axis=1)
    following, preserving, quality = report_labels(labels, ratings).agreements
    assert following.spearman == pytest.approx(1)
    assert following.alpha == pytest.approx(1)
    assert preserving.spearman == pytest.approx(-1)
    assert preserving.alpha_interval[1] < 0
    assert (following.edits, quality.edits) == (40, 30)


@pytest.mark.skipif(not (SHARED_DATA / "imagenhub").is_dir(), reason="needs the public ratings of ImagenHub")
def test_alpha_is_that_of_published_ratings():
    """The authors printed the alpha of their three raters to two decimals."""
    ratings = read_ratings(SHARED_DATA / "imagenhub")
    published = json.loads((SHARED_DATA / "imagenhub/published_agreement.json").read_text())["Text-Guided_IE"]
    for model, name in enumerate(ratings.models):
        for part, column in (("SC", 0), ("PR", 1)):
            alpha = ordinal_alpha(*ratings.values[:, model, :, column])
            assert round(alpha, 2) == float(published[name][part][1])


def test_alpha_of_constant_ratings_is_undefined():
    assert np.isnan(ordinal_alpha(np.full(4, 5.0), np.full(4, 5.0)))


def test_the_charts_show_every_perspective(report):
    figure = draw_label_report(report)
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == [
        "following: 3 scores",
        "preserving: 1 scores",
        "quality: 3 scores",
    ]
    words = [tick.get_text() for tick in figure.axes[5].get_yticklabels()]
    assert set(words) == {"blocks", "noise"}
