"""AURORA: readers of pairs and points, and their figures for a scorer that is a function of pixels."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from rewardedit_jax.evaluation.reward_models.aurora import (
    evaluate_pairs,
    evaluate_points,
    measure_pairs,
    measure_points,
    read_pairs,
    read_points,
)
from rewardedit_jax.evaluation.reward_models.edits import Edit, score_edits


def brightness(sources, edited, instructions):
    """A scorer whose overall score is the brightness of the edited image; its other scores have other orders."""
    assert len(sources) == len(edited) == len(instructions)
    overall = np.array([np.asarray(picture).mean() for picture in edited])
    return np.stack([-overall, 0 * overall, overall], axis=1)


@pytest.fixture
def grey(tmp_path):
    """Writes an image of the given brightness and returns its file name."""

    def paint(level):
        name = f"{level}.png"
        Image.new("RGB", (4, 4), (level, level, level)).save(tmp_path / name)
        return name

    return paint


def write(tmp_path, records):
    file = tmp_path / "items.json"
    file.write_text(json.dumps(records))
    return file


def pair(grey, first, second, one, two):
    paths = {"path_src": grey(0), "path1": grey(first), "path2": grey(second)}
    return {"prompt": "brighter", **paths, "model1_dim1_score": one, "model2_dim1_score": two}


def rows(report):
    return {(row.measure, row.protocol): row.value for row in report.rows}


def test_pairs_are_measured_by_the_overall_score(tmp_path, grey):
    """Clear preferences, ties between nearly equal images, and one preference that the scorer gets wrong."""
    records = [pair(grey, 200, 100, 4, 2), pair(grey, 20, 120, 1, 3), pair(grey, 50, 51, 2, 2)] * 6
    file = write(tmp_path, [*records, pair(grey, 10, 220, 4, 1)])
    pairs = read_pairs(file, tmp_path)
    assert [p.human for p in pairs[:3]] == [1, -1, 0]
    report = evaluate_pairs(pairs, brightness, "AURORA")
    measured = rows(report)
    assert (
        measured["accuracy with ties", "published"] == measured["accuracy with ties", "sound"] == pytest.approx(18 / 19)
    )
    assert measured["accuracy without ties", "published"] == measured["accuracy without ties", "sound"] == 12 / 13
    assert report.to_json()["ties"] == 6
    assert report.title.startswith("AURORA")


def test_pairs_judged_more_than_once_are_reported(tmp_path, grey):
    """Contradicted in the same order, and by a tie; repeated in the other order. All stay in the denominator."""
    records = [
        pair(grey, 200, 100, 4, 2),
        pair(grey, 200, 100, 2, 4),
        pair(grey, 20, 120, 1, 3),
        pair(grey, 120, 20, 3, 1),
        pair(grey, 50, 51, 2, 2),
        pair(grey, 50, 51, 2, 1),
        {**pair(grey, 50, 51, 1, 2), "prompt": "another"},
    ]
    report = evaluate_pairs(read_pairs(write(tmp_path, records), tmp_path), brightness, "AURORA")
    measured = report.to_json()
    assert measured["pairs"] == 7
    assert measured["contradictory"] == {"pairs": 2, "first": [[0, 1], [4, 5]]}
    assert measured["repeated"] == {"pairs": 1, "first": [[2, 3]]}
    text = report.to_text()
    assert "contradictory pairs, 2: items 0 = 1; 4 = 5" in text
    assert "repeated pairs, 1: items 2 = 3." in text


def test_points_rated_more_than_once_are_reported(tmp_path, grey):
    """Edits are the same if images and instruction are, whatever their models."""
    levels, scores, models = (1, 2, 1, 2, 3, 2), (1, 2, 3, 2, 3, 2), "aaabbb"
    records = [
        {"prompt": "p", "input": grey(0), "gen": grey(level), "score": score, "model": model}
        for level, score, model in zip(levels, scores, models, strict=True)
    ]
    records[-1]["prompt"] = "another"
    report = evaluate_points(read_points(write(tmp_path, records), tmp_path, "aurora"), brightness, "aurora")
    measured = report.to_json()
    assert measured["edits"] == 6
    assert measured["contradictory"] == {"edits": 1, "first": [[0, 2]]}
    assert measured["repeated"] == {"edits": 1, "first": [[1, 3]]}
    assert "contradictory edits, 1: items 0 = 2." in report.to_text()


def test_transparent_pictures_are_counted(tmp_path, grey):
    """An image of two edits counts once; an opaque alpha channel does not count."""
    Image.new("RGBA", (4, 4), (9, 9, 9, 100)).save(tmp_path / "glass.png")
    Image.new("RGBA", (4, 4), (9, 9, 9, 255)).save(tmp_path / "solid.png")
    records = [pair(grey, 1, 2, 4, 1), pair(grey, 3, 2, 1, 4)]
    records = [
        {**record, "path1": "glass.png", "path2": "solid.png"} if i else record for i, record in enumerate(records)
    ]
    report = evaluate_pairs(read_pairs(write(tmp_path, [*records, records[1]]), tmp_path), brightness, "AURORA")
    assert any("1 of 5 images" in note for note in report.notes)
    assert report.values["composited"] == {"pictures": 1, "of": 5}
    clear = evaluate_pairs(read_pairs(write(tmp_path, records[:1] * 2), tmp_path), brightness, "AURORA")
    assert "composited" not in clear.values


def test_worked_example_through_the_report():
    human = np.array([1, -1, 0] * 3)
    margin = np.array([0.8, 0.1, -0.4, 0.3, -0.3, -0.1, 0.3, -0.1, -0.1])
    measured = measure_pairs(human, margin, "GenAI-Bench").to_json()
    assert measured["accuracy_with_ties"]["published"] == pytest.approx(66.67, abs=5e-3)
    assert measured["accuracy_without_ties"]["published"] == pytest.approx(83.33, abs=5e-3)


def test_ties_alone_have_no_accuracy_without_ties():
    measured = rows(measure_pairs(np.zeros(4, int), np.arange(4.0), "GenAI-Bench"))
    assert {measure for measure, _ in measured} == {"accuracy with ties"}


def test_the_published_file_of_pairs(shared_data):
    """503 preferences of GenAI-Bench, the preferred edit first; its images are not in the repository."""
    folder = shared_data / "editreward"
    pairs = read_pairs(folder / "valid_dataset_1.json", folder)
    assert [pair.human for pair in pairs] == [1] * 503
    with pytest.raises(ValueError, match=r"(?s)1006 of 1006 edits cannot .*item 0, path1: missing image .* more"):
        evaluate_pairs(pairs, brightness, "GenAI-Bench")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model2_dim1_score", None, "model2_dim1_score=None"),
        ("path1", "", "path1=''"),
        ("prompt", 3, "prompt=3"),
        ("prompt", " ", "prompt=' '"),
        ("path2", "../1.png", r"'\.\./1\.png' lies outside the folder .*--allow-outside"),
        ("path_src", "/etc/1.png", r"'/etc/1\.png' lies outside the folder"),
    ],
)
def test_faults_of_pairs_name_item_and_key(tmp_path, grey, key, value, message):
    file = write(tmp_path, [pair(grey, 1, 2, 4, 2), {**pair(grey, 1, 2, 4, 2), key: value}])
    with pytest.raises(ValueError, match=rf"items\.json: 1 bad record of 2:\n  item 1: {message}"):
        read_pairs(file, tmp_path)


def test_points_of_aurora(tmp_path, grey):
    """Two models are ordered right, the third one in reverse."""
    levels = (10, 20, 30)
    records = [
        {"prompt": "p", "input": grey(0), "gen": grey(level), "score": sign * level, "model": model, "filename": "f"}
        for model, sign in (("right", 1), ("wrong", -1), ("fair", 1))
        for level in levels
    ]
    report = evaluate_points(read_points(write(tmp_path, records), tmp_path, "aurora"), brightness, "aurora")
    assert report.to_json()["per_model"] == pytest.approx({"right": 1, "wrong": -1, "fair": 1})
    measured = rows(report)
    assert measured["mean of r", "published"] == pytest.approx(1 / 3)
    assert ("tanh of mean r", "published") not in measured
    assert measured["Fisher mean of r", "sound"] == pytest.approx(np.tanh(np.arctanh(1 - 1e-6) / 3))


def test_points_of_imagenhub(tmp_path, grey):
    """Within instructions, the two models are in the right order twice and in the wrong order once."""
    scores = {"one": [0.1, 0.6, 0.7], "two": [0.3, 0.2, 0.9]}
    records = [
        {"instruction": f"i{i}", "input_path": grey(0), "output_path": grey(i), "score": s, "model": model}
        for model, of in scores.items()
        for i, s in enumerate(of)
    ]
    points = read_points(write(tmp_path, records), tmp_path, "imagenhub")
    report = measure_points(points, np.array([1.0, 2, 3, 2, 3, 4]), "imagenhub")
    measured = rows(report)
    assert measured["mean of r", "published"] == pytest.approx((1 + 0.5) / 2)
    assert measured["tanh of mean r", "published"] == pytest.approx(np.tanh(0.75))
    assert measured["r within instructions", "published"] == pytest.approx(1 / 3)
    # Scores within instructions are all -1 or 1 by model: 0.1, 0.6, 0.7 against 0.3, 0.2, 0.9.
    assert measured["r of z-scores, v2", "published"] == pytest.approx(0.09759, abs=1e-4)


def test_a_constant_scorer_is_named(tmp_path, grey):
    records = [{"prompt": "p", "input": grey(0), "gen": grey(i), "score": i, "model": "m"} for i in range(3)]
    report = measure_points(read_points(write(tmp_path, records), tmp_path, "aurora"), np.ones(3), "aurora")
    assert report.to_json()["per_model"] == {"m": None}
    assert rows(report)["Fisher mean of r", "sound"] == 0
    assert report.notes[-1].endswith("sound means, for: m.")


def test_many_edits_are_scored_in_their_order(tmp_path, grey):
    edits = [Edit(tmp_path / grey(0), (tmp_path / grey(i)).read_bytes(), "x") for i in range(130)]
    calls = []

    def counted(*asked):
        calls.append(len(asked[0]))
        return brightness(*asked)

    assert score_edits(counted, edits)[:, 2].tolist() == list(range(130))
    assert max(calls) < 130
    assert sum(calls) == 130


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((2, 2)), r"shape \(2, 2\) for 2 edits"),
        ([[0, 0, 0], [0, 0, np.nan]], r"1 of 2 edits .*\n  items\.json, item 4, path2: its scores .*nan"),
    ],
)
def test_scorers_that_return_something_else(tmp_path, grey, scores, message):
    edits = [Edit(tmp_path / grey(0), tmp_path / grey(1), "x", f"items.json, item 4, path{n}") for n in (1, 2)]
    with pytest.raises(ValueError, match=message):
        score_edits(lambda *_: scores, edits)


def test_an_error_of_a_callable_names_the_first_edit_of_the_call(tmp_path, grey):
    def picky(sources, edited, instructions):
        if "bad" in instructions:
            raise ValueError(f"edit {instructions.index('bad')}: I do not like it")
        return brightness(sources, edited, instructions)

    records = [{**pair(grey, 1, 2, 4, 2), "prompt": "bad" if i == 45 else "x"} for i in range(46)]
    pairs = read_pairs(write(tmp_path, records), tmp_path)
    with pytest.raises(ValueError, match=r"counting from .*items\.json, item 32, path1: edit 26: I do not"):
        evaluate_pairs(pairs, picky, "AURORA")


def test_all_unreadable_images_are_found_before_scoring(tmp_path, grey):
    """Missing ones and broken ones, in one error."""
    names = (grey(1), "b.png", "a.png", grey(2))
    (tmp_path / grey(2)).write_bytes(b"no picture")
    edits = [Edit(tmp_path / grey(0), tmp_path / name, "x") for name in names[:3]]
    edits += [Edit(tmp_path / grey(0), b"no picture", "x", "item 7")]
    with pytest.raises(ValueError, match="3 of 4 edits cannot be scored") as measured:
        score_edits(lambda *_: pytest.fail("scored"), edits)
    for line in (r"edit 1: missing image .*b\.png", r"edit 2: missing image .*a\.png", r"item 7: image edited cannot"):
        assert re.search(line, str(measured.value))


@pytest.fixture
def graded(tmp_path, grey):
    """Six pairs that `brightness` gets right, with an unreadable edit in the last two."""
    records = [pair(grey, 200 + i, 100 + i, 4, 2) for i in range(6)]
    records[4]["path2"], records[5]["path1"] = "none.png", "broken.png"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return write(tmp_path, records)


def test_pairs_without_scores_are_wrong_as_published_and_else_left_out(graded):
    with pytest.raises(ValueError, match="2 of 12 edits cannot be scored"):
        evaluate_pairs(read_pairs(graded), brightness, "AURORA", skip_bad=1)
    report = evaluate_pairs(read_pairs(graded), brightness, "AURORA", skip_bad=2)
    assert [(row.protocol, row.of) for row in report.rows] == [
        ("published", "6 pairs"),
        ("sound", "4 pairs"),
    ] * 2
    measured = rows(report)
    assert measured["accuracy without ties", "published"] == pytest.approx(4 / 6)
    assert measured["accuracy without ties", "sound"] == 1
    # One of the others is predicted to be a tie: the published scan tries no threshold without ties.
    assert measured["accuracy with ties", "published"] == pytest.approx(3 / 6)
    assert (report.values["unscored"]["count"], report.values["coverage"]) == (2, 10 / 12)
    assert "2 edits could not be scored: " in report.notes[-1]
    assert "item 4, path2: missing image" in report.notes[-1]
    assert "item 5, path1: image" in report.notes[-1]


def test_points_without_scores(tmp_path, grey):
    """Published correlations are of the others; sound ones give the edit the mean rank."""
    records = [
        {"prompt": "p", "input": grey(0), "gen": grey(level), "score": level, "model": "m"} for level in (1, 2, 3, 4)
    ]
    records[3]["gen"] = "none.png"
    points = read_points(write(tmp_path, records), tmp_path, "aurora")
    report = evaluate_points(points, brightness, "aurora", skip_bad=1)
    measured = rows(report)
    assert measured["mean of r", "published"] == 1
    assert measured["Fisher mean of r", "sound"] == pytest.approx(2 / np.sqrt(2 * 5))
    assert [row.of for row in report.rows] == ["1 models, 3 edits", "1 models, 4 edits"]
    assert report.values["coverage"] == 3 / 4


def test_images_outside_the_folder_are_read_on_demand(tmp_path, grey):
    (tmp_path / "lists").mkdir()
    records = [{**pair(grey, 1, 2, 4, 2), "path_src": "../0.png"}, pair(grey, 1, 2, 4, 2)]
    file = write(tmp_path / "lists", records)
    with pytest.raises(ValueError, match=r"1 bad record of 2:\n  item 0: '\.\./0\.png' lies outside"):
        read_pairs(file)
    assert read_pairs(file, allow_outside=True)[0].first.source == tmp_path / "lists" / "../0.png"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path, grey, encoding):
    file = write(tmp_path, [pair(grey, 1, 2, 4, 2)])
    file.write_bytes(file.read_text().replace("brighter", "plus clair: é").encode(encoding))
    assert read_pairs(file)[0].first.instruction == "plus clair: é"


def test_broken_images_are_named(tmp_path, grey):
    good = tmp_path / grey(0)
    with pytest.raises(ValueError, match="edit 1: image edited cannot be read"):
        score_edits(brightness, [Edit(good, good, "x"), Edit(good, b"no picture", "x")])
