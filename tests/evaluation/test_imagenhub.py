"""ImagenHub: published correlations and human ceiling from the public files, and the faults of these files."""

import json
import re
import shutil

import numpy as np
import pytest

from rewardedit_jax.evaluation.reward_models import imagenhub
from rewardedit_jax.evaluation.reward_models.imagenhub import (
    evaluate_ratings,
    judged_aspects,
    note_unrated,
    read_ratings,
)
from rewardedit_jax.evaluation.reward_models.viescore import note_answers, read_answers

MODELS, UIDS = ("One", "Two"), ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
# Printed in VIEScore's analyze_json.ipynb: tanh of the mean, over raters, of each one's correlation with the others.
HUMAN = {
    "semantic": (0.5482, 0.3286, 0.66, 0.6219, 0.3311, 0.588, 0.2657, 0.2675),
    "perceptual": (0.5887, 0.6214, 0.5955, 0.519, 0.577, 0.5028, 0.4705, 0.5757),
    "overall": (0.5891, 0.4265, 0.6561, 0.6289, 0.3327, 0.5811, 0.1991, 0.1524),
}


@pytest.fixture
def folders(tmp_path):
    """Ratings that fall from a to d in both parts, and a judge that agrees on everything."""
    levels = [1, 0.5, 0.5, 0]
    ratings, answers = tmp_path / "ratings", tmp_path / "answers"
    ratings.mkdir()
    for rater in (1, 2, 3):
        lines = [f"{uid}\t[{v}, {v}]\t[{v},{v}]\t[0,0]" for uid, v in zip(UIDS, levels, strict=True)]
        (ratings / f"IE_rater{rater}.tsv").write_text("\n".join(["uid\tOne\tTwo\tImagic", *lines]))
    for model in MODELS:
        (answers / model).mkdir(parents=True)
        measured = {uid: {"score": [10 * v, 10]} for uid, v in zip(UIDS, levels, strict=True)}
        (answers / model / "SC.json").write_text(json.dumps(measured))
        measured = {uid: {"score": 10 * v} for uid, v in zip(UIDS, levels, strict=True)}
        (answers / model / "PQ.json").write_text(json.dumps(measured))
    return ratings, answers


@pytest.fixture
def no_intervals(monkeypatch):
    """Without the bootstrap, which takes seconds."""
    monkeypatch.setattr(imagenhub, "bootstrap_interval", lambda *_: (0.0, 1.0))


def evaluate(ratings, answers):
    read = read_ratings(ratings)
    found = read_answers(answers, read)
    report = evaluate_ratings(read, judged_aspects(found.sound), published=judged_aspects(found.published))
    return report.with_notes(*note_answers(found))


@pytest.fixture(scope="module")
def published(shared_data):
    return evaluate(shared_data / "imagenhub", shared_data / "viescore" / "gpt4o_0shot").to_json()


@pytest.mark.parametrize(
    ("aspect", "mean", "tanh"),
    [("overall", 0.4025, 0.3821), ("semantic", 0.4311, 0.4062), ("perceptual", 0.5313, 0.4864)],
)
def test_published_figures(published, aspect, mean, tanh):
    measured = published[aspect]
    assert (round(measured["mean_spearman"], 4), round(measured["tanh_mean"], 4)) == (mean, tanh)
    low, high = measured["interval"]
    assert low < measured["fisher_mean"] < high
    assert (
        measured["fisher_mean"] > measured["mean_spearman"]
    )  # what Fisher's transform does to correlations that differ


@pytest.mark.parametrize("aspect", HUMAN)
def test_published_human_ceiling(published, aspect):
    measured = published[aspect]["human"]
    assert list(measured["per_model_tanh_mean"].values()) == pytest.approx(HUMAN[aspect], abs=2e-4)
    assert measured["tanh_mean"] == pytest.approx(np.tanh(np.mean(HUMAN[aspect])), abs=1e-4)
    assert measured["fisher_mean"] > published[aspect]["fisher_mean"]
    low, high = measured["interval"]
    assert low < measured["fisher_mean"] < high


def test_every_sound_number_has_an_interval(published):
    assert all((row["interval"] is not None) == (row["protocol"] == "sound") for row in published["rows"])


def test_what_is_measured(published):
    assert len(published["models"]) == 8
    assert published["edits"] == 179
    assert "Left out, as published: Imagic." in published["notes"]


@pytest.mark.usefixtures("no_intervals")
def test_a_judge_that_agrees(folders):
    measured = evaluate(*folders).to_json()
    for aspect in ("overall", "semantic", "perceptual"):
        assert measured[aspect]["mean_spearman"] == pytest.approx(1)
        assert measured[aspect]["tanh_mean"] == pytest.approx(np.tanh(1))
        assert measured[aspect]["fisher_mean"] == pytest.approx(1, abs=1e-5)


def test_means_of_the_same_ratings_are_ties(folders):
    """Sums of three square roots differ in the last bit by their order, which must not change ranks."""
    ratings = read_ratings(folders[0])
    parts = np.array([[1, 0.5], [0.5, 0.5], [1, 1]])
    values = np.stack([parts[[0, 1, 2]], parts[[1, 2, 0]], parts[[2, 0, 1]]], 1)  # raters, uids, 2
    turned = type(ratings)(("One",), UIDS[:3], values[:, None], ())
    assert len(np.unique(turned.mean("overall"))) == 1


@pytest.mark.usefixtures("no_intervals")
def test_a_judge_with_constant_answers(folders):
    """Its correlation is null in the published protocol, 0 in the sound one, and its name is in the report."""
    file = folders[1] / "One" / "PQ.json"
    file.write_text(json.dumps({uid: {"score": [5]} for uid in UIDS}))
    report = evaluate(*folders)
    measured = json.loads(json.dumps(report.to_json(), allow_nan=False))["perceptual"]
    assert measured["mean_spearman"] is None
    assert measured["tanh_mean"] is None
    assert measured["undefined"] == ["One"]
    assert measured["fisher_mean"] == pytest.approx(np.tanh(np.arctanh(1 - 1e-6) / 2))
    assert "sound means, for: perceptual of One." in report.to_text()


def rewrite(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_stored_guesses_are_no_answers(published):
    """Six scores of GPT-4o are random: VIEScore's code stored them for empty texts."""
    assert published["lost"]["missing"]["count"] == 6
    assert "DiffEdit/SC sample_129587_2.jpg" in published["lost"]["missing"]["first"]
    assert published["coverage"] == (2 * 8 * 179 - 6) / (2 * 8 * 179)


GUESS = "guess_if_cannot_parse | "


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (None, "missing"),
        ({"score": None}, "missing"),
        ({"score": [], "reasoning": " "}, "missing"),
        ({"score": [7], "reasoning": GUESS}, "missing"),
        ({"score": [7, 10**400], "reasoning": ""}, "unreadable"),
        ({"score": [-1, 3]}, "unreadable"),
        ({"score": [1, 2, 3]}, "unreadable"),
        ({"score": ["7"]}, "unreadable"),
        ({"score": "n/a"}, "unreadable"),
        ({"score": True}, "unreadable"),
        ({"score": [float("nan")]}, "unreadable"),
        ({"score": [7], "reasoning": GUESS + "naturalness 7"}, "unreadable"),
        ("Sorry, I can't assist with that request.", "refused"),
        ({"score": [], "reasoning": "I am unable to evaluate this image."}, "refused"),
        ({"score": [7], "reasoning": GUESS + "I cannot see the images."}, "refused"),
    ],
)
def test_lost_answers(folders, answer, kind):
    rewrite(folders[1] / "One" / "SC.json", lambda answers: answers.update({"c.jpg": answer}))
    answers = read_answers(folders[1], read_ratings(folders[0]))
    assert answers.lost == {"One/SC c.jpg": kind}
    assert np.argwhere(np.isnan(answers.sound)).tolist() == [[0, 2, 0]]
    (sentences, values), *_ = note_answers(answers)
    assert (values["coverage"], values["lost"][kind]["first"]) == (15 / 16, ["One/SC c.jpg"])
    assert f"1 {kind} (One/SC c.jpg)" in sentences[-1]


@pytest.mark.usefixtures("no_intervals")
def test_published_measures_leave_lost_answers_out(folders):
    """Of all aspects, as VIEScore's notebook does; sound measures keep the edit, with the mean rank."""
    rewrite(folders[1] / "One" / "SC.json", lambda answers: answers.pop("a.jpg"))
    measured = evaluate(*folders).to_json()
    assert measured["rows"][0]["of"] == "7 of 2 models × 4 edits"
    assert measured["semantic"]["per_model"]["One"] == pytest.approx(1)
    ranks, human = np.array([0, 0.5, 0.5, -1]), np.array([1.5, 0, 0, -1.5])  # of a, b, c, d, centred
    sound = ranks @ human / np.sqrt(ranks @ ranks * (human @ human))
    expected = np.tanh((np.arctanh(sound) + np.arctanh(1 - 1e-6)) / 2)
    assert measured["semantic"]["fisher_mean"] == pytest.approx(expected)


def test_answers_about_edits_that_nobody_rated_are_listed(folders):
    rewrite(folders[1] / "Two" / "SC.json", lambda answers: answers.update({"x.jpg": {"score": [1]}}))
    (_, coverage), (sentences, values) = note_answers(read_answers(folders[1], read_ratings(folders[0])))
    assert values["not_rated"] == {"count": 1, "first": ["Two/SC x.jpg"]}
    assert "Two/SC x.jpg" in sentences[0]
    assert coverage["coverage"] == 1


@pytest.mark.usefixtures("no_intervals")
def test_a_judge_that_never_answered(folders):
    for file in folders[1].rglob("*.json"):
        file.write_text("{}")
    measured = evaluate(*folders).to_json()
    assert (measured["coverage"], measured["overall"]["fisher_mean"]) == (0, 0)
    assert measured["overall"]["mean_spearman"] is None


@pytest.mark.parametrize("cell", ["[0, 2]", "[0, 0.7]", "[0, true]", "[1]", "", "[0.5, x]", "1"])
def test_invalid_ratings(folders, cell):
    file = folders[0] / "IE_rater2.tsv"
    file.write_text(file.read_text().replace("b.jpg\t[0.5, 0.5]", f"b.jpg\t{cell}"))
    with pytest.raises(ValueError, match=r"IE_rater2\.tsv, b\.jpg, One: the rating is"):
        evaluate(*folders)


def test_models_that_nobody_rated_are_reported(folders):
    """Imagic is rated and left out, so it is not reported here."""
    for name in ("New", "Imagic", ".cache"):
        shutil.copytree(folders[1] / "One", folders[1] / name)
    ratings = read_ratings(folders[0])
    assert note_unrated(folders[1], ratings) == (["Not evaluated, as nobody rated them: New."], {"unrated": ["New"]})
    assert note_unrated(folders[1], ratings, besides=("New",)) == ([], {})


def test_raters_of_other_edits_or_models(folders):
    file = folders[0] / "IE_rater3.tsv"
    text = file.read_text()
    file.write_text(text.replace("b.jpg", "y.jpg"))
    with pytest.raises(ValueError, match=r"rater3\.tsv: of 4 uids, 1 are missing \(b.jpg\)"):
        read_ratings(folders[0])
    file.write_text(text.replace("Two", "Three"))
    with pytest.raises(ValueError, match=r"rater3\.tsv: of 3 models, 1 are missing \(Two\)"):
        read_ratings(folders[0])
    file.write_text(text + "\na.jpg\t[0,0]\t[0,0]\t[0,0]")
    with pytest.raises(ValueError, match=r"rater3\.tsv: a\.jpg occurs twice"):
        read_ratings(folders[0])
    file.write_text(text + "\nz.jpg\t[0,0]")
    with pytest.raises(ValueError, match=r"z\.jpg has 1 ratings for 3 models"):
        read_ratings(folders[0])
    for content in ("", "name\tOne\na.jpg\t[0,0]"):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"rater3\.tsv is not a table of ratings"):
            read_ratings(folders[0])


@pytest.mark.parametrize(("name", "replaced"), [("../b.jpg", "b.jpg"), ("/etc/b", "b.jpg"), ("..\\Two", "Two")])
def test_ratings_name_files_without_directories(folders, name, replaced):
    file = folders[0] / "IE_rater1.tsv"
    file.write_text(file.read_text().replace(replaced, name))
    with pytest.raises(ValueError, match=f"IE_rater1.tsv: expected names .*{re.escape(name)}"):
        read_ratings(folders[0])


@pytest.mark.parametrize(("end", "encoding"), [("\n", "utf-8"), ("\r\n", "utf-8-sig"), ("\n", "utf-16")])
def test_only_line_ends_end_lines(folders, end, encoding):
    """A name may contain characters that Unicode calls line separators; a byte order mark is not part of a cell."""
    for file in folders[0].iterdir():
        lines = file.read_text().replace("b.jpg", "b\u2028\x85.jpg").split("\n")
        file.write_bytes(end.join([*lines, ""]).encode(encoding))
    ratings = read_ratings(folders[0])
    assert ratings.uids == ("a.jpg", "b\u2028\x85.jpg", "c.jpg", "d.jpg")
    assert ratings.models == MODELS


def test_missing_folders_and_files(folders, tmp_path):
    ratings, answers = folders
    (answers / "One" / "PQ.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"One/PQ\.json"):
        evaluate(ratings, answers)
    shutil.rmtree(answers / "Two")
    with pytest.raises(FileNotFoundError, match="no directory for Two"):
        evaluate(ratings, answers)
    with pytest.raises(FileNotFoundError, match="no directory for One, Two"):
        evaluate(ratings, tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="has 0 files"):
        read_ratings(answers)
