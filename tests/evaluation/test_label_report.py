"""The report of a labelling: counts, distribution, frequent words, and agreement with ratings."""

import json
from argparse import ArgumentParser

import numpy as np
import pytest
from paths import SHARED_DATA
from PIL import Image

from rewardedit_jax.data.labels import Label, Unanswered, read_labels
from rewardedit_jax.data.triplets import TripletFile
from rewardedit_jax.evaluation.label_report import (
    add_label_report_arguments,
    draw_label_report,
    frequent_words,
    ordinal_alpha,
    own_ratings,
    report_labels,
    run_label_report,
)
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


def write_labels(file, keys) -> None:
    rows = [{"key": key, "scores": [5, 4, 3], "feedback": ["None", "a", "b"], "failures": []} for key in keys]
    file.write_text("\n".join(map(json.dumps, rows)))


def test_the_command_measures_agreement_with_the_data(tmp_path, capsys):
    lines = [{"input": "a.png", "output": f"{i}.png", "instruction": "edit"} for i in range(3)]
    for i, line in enumerate(lines[:2]):
        line |= {"scores": [i, i, i], "feedback": ["x", "y", "z"]}
    for name in ("a", *range(3)):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    edits = TripletFile(tmp_path / "list.jsonl")
    write_labels(tmp_path / "labels.jsonl", [*edits.keys(), "not in the data"])
    ratings = own_ratings(edits, read_labels(tmp_path / "labels.jsonl"))
    np.testing.assert_array_equal(ratings[:, 0], [0, 1, np.nan, np.nan])
    parser = ArgumentParser()
    add_label_report_arguments(parser)
    files = {name: str(tmp_path / f"report.{name}") for name in ("json", "png")}
    words = [str(tmp_path / "labels.jsonl"), "--data", str(tmp_path / "list.jsonl")]
    run_label_report(parser.parse_args([*words, "--json", files["json"], "--png", files["png"]]))
    assert "4 of 4 edits have all three scores" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["complete"] == 4
    with Image.open(files["png"]) as chart:
        assert chart.width > 600


def test_labels_of_other_edits_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "list.jsonl").write_text('{"input": "a.png", "output": "a.png", "instruction": "edit"}')
    write_labels(tmp_path / "labels.jsonl", ["x"])
    with pytest.raises(ValueError, match="none of the labels is of an edit of --data"):
        own_ratings(TripletFile(tmp_path / "list.jsonl"), read_labels(tmp_path / "labels.jsonl"))
