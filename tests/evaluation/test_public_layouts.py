"""A scorer on the published files of GenAI-Bench and ImagenHub, and the faults of these files."""

import io
import json
import runpy
import shutil
import sys

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from tiny_models import ROOT
from tiny_scorers import shapes_scorer

from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.evaluation.reward_models.aurora import evaluate_pairs
from rewardedit_jax.evaluation.reward_models.edits import score_edits
from rewardedit_jax.evaluation.reward_models.genai_bench import read_hub_pairs
from rewardedit_jax.evaluation.reward_models.imagenhub import (
    evaluate_edits,
    evaluate_ratings,
    rated_edits,
    read_ratings,
    scored_aspects,
)

UIDS = ("sample_1_1.jpg", "sample_2_1.jpg", "sample_3_2.jpg", "sample_4_1.jpg")


def brightness(sources, edited, instructions):
    """A scorer: following is the brightness of the edit, quality the darkness of the source, overall the sum."""
    bright, dark = (np.array([np.asarray(x).mean() for x in images]) for images in (edited, sources))
    return np.stack([bright, 255 - dark, bright + 255 - dark], axis=1)


def cell(level):
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (level,) * 3).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


def vote(kind, left, right, **more):
    images = zip(("source_image", "left_output_image", "right_output_image"), (0, left, right), strict=True)
    texts = {"instruct_prompt": "brighter", "left_model": "x", "right_model": "y", "vote_type": kind}
    return {**texts, **{name: cell(level) for name, level in images}, **more}


@pytest.fixture
def hub(tmp_path):
    def write(*rows):
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), tmp_path / "test-00000-of-00001.parquet")
        return tmp_path

    return write


def test_votes_of_the_hub(hub):
    rows = [vote("leftvote", 90, 10), vote("rightvote", 10, 90), vote("tievote", 50, 50), vote("bothbad_vote", 9, 9)]
    pairs = read_hub_pairs(hub(*rows, vote("leftvote", 10, 90)))
    assert [pair.human for pair in pairs] == [1, -1, 0, 0, 1]
    report = evaluate_pairs(pairs, brightness, "GenAI-Bench")
    assert report.values["accuracy_without_ties"]["sound"] == pytest.approx(200 / 3)
    assert (report.values["pairs"], report.values["ties"]) == (5, 2)


def test_no_row_of_the_hub_is_left_out_silently(hub):
    bad = [vote("upvote", 1, 2), vote("tievote", 1, 2, instruct_prompt=" ")]
    with pytest.raises(BadRecords, match="2 of 3 rows") as measured:
        read_hub_pairs(hub(vote("leftvote", 1, 2), *bad))
    for fault in (
        "row 1 of all: vote_type='upvote'",
        "row 2 of all: instruct_prompt=' '",
    ):
        assert fault in str(measured.value)


def test_a_row_of_the_hub_without_an_image(hub):
    rows = [vote("leftvote", 90, 10), vote("rightvote", 10, 90), vote("tievote", 1, 2)]
    rows[2]["left_output_image"] = {"bytes": None, "path": "lost.png"}
    pairs = read_hub_pairs(hub(*rows))
    with pytest.raises(ValueError, match=r"1 of 6 edits .*\n.*row 2 of all, left_output_image: image edited"):
        evaluate_pairs(pairs, brightness, "GenAI-Bench")
    report = evaluate_pairs(pairs, brightness, "GenAI-Bench", skip_bad=1)
    assert [row.of for row in report.rows[:2]] == ["3 pairs", "2 pairs"]


def test_a_folder_without_parquet(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)no file \*\.parquet under .*TIGER-Lab/GenAI-Bench"):
        read_hub_pairs(tmp_path)


def test_the_command_measures_a_scorer_on_both(hub, museum, monkeypatch, tmp_path):
    folder, results = museum
    shutil.copytree(results / "Two", results / "Three")
    shapes_scorer().save(tmp_path / "scorer")
    hub(vote("leftvote", 90, 10), vote("rightvote", 10, 90), vote("tievote", 50, 50))

    def evaluate(*arguments):
        measured = tmp_path / "out.json"
        words = ["evaluate.py", *arguments, "--model", tmp_path / "scorer", "--json", measured]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        runpy.run_path(str(ROOT / "launch" / "evaluate.py"), run_name="__main__")
        return json.loads(measured.read_text())

    assert evaluate("genai_bench", "--pairs", tmp_path)["pairs"] == 3
    measured = evaluate("imagenhub", "--ratings", folder, "--results", results)
    assert -1 <= measured["overall"]["per_model"]["One"] <= 1
    assert measured["unrated"] == ["Three"]


@pytest.fixture
def museum(tmp_path):
    """Two models, four sources, and three raters who prefer bright images."""
    levels = {"One": (200, 150, 100, 50), "Two": (60, 120, 180, 240)}
    for rater in (1, 2, 3):
        lines = ["uid\tOne\tTwo\tImagic"]
        for i, uid in enumerate(UIDS):
            one, two = (round(2 * levels[model][i] / 255) / 2 for model in levels)
            lines.append(f"{uid}\t[{one}, 1]\t[{two}, 0.5]\t[0, 0]")
        (tmp_path / f"IE_rater{rater}.tsv").write_text("\n".join(lines))
    results = tmp_path / "ImagenHub_Text-Guided_IE"
    for folder, of in {"input": (0, 10, 20, 30), **levels}.items():
        (results / folder).mkdir(parents=True)
        for uid, level in zip(UIDS, of, strict=True):
            Image.new("RGB", (8, 8), (level,) * 3).save(results / folder / uid)
    (results / "dataset_lookup.json").write_text(json.dumps({uid: {"instruction": "brighter"} for uid in UIDS}))
    return tmp_path, results


def test_a_scorer_is_measured_on_the_edits_themselves(museum):
    ratings = read_ratings(museum[0])
    edits = rated_edits(museum[1], ratings)
    assert [edit.edited.parent.name for edit in edits] == ["One"] * 4 + ["Two"] * 4
    report = evaluate_ratings(ratings, scored_aspects(score_edits(brightness, edits), ratings))
    assert report.values["semantic"]["mean_spearman"] > 0.9
    assert report.values["perceptual"]["undefined"] == ["One", "Two"]  # rated alike


@pytest.mark.parametrize(
    ("lookup", "message"),
    [
        ({UIDS[0]: {"instruction": "x"}}, rf"no instruction for 3 of 4 rated uids: {UIDS[1]}"),
        ([], r"dataset_lookup\.json: expected `object`"),
        ({uid: {"instruction": ""} for uid in UIDS}, "no instruction for 4 of 4"),
    ],
)
def test_a_lookup_that_lacks_instructions(museum, lookup, message):
    (museum[1] / "dataset_lookup.json").write_text(json.dumps(lookup))
    with pytest.raises(ValueError, match=message):
        rated_edits(museum[1], read_ratings(museum[0]))


def test_missing_pictures_are_counted(museum):
    (museum[1] / "Two" / UIDS[2]).unlink()
    ratings = read_ratings(museum[0])
    edits = rated_edits(museum[1], ratings)
    with pytest.raises(ValueError, match=r"1 of 8 edits cannot .*\n  Two, sample_3_2\.jpg: missing image"):
        evaluate_edits(edits, ratings, brightness)
    report = evaluate_edits(edits, ratings, brightness, skip_bad=1)
    assert report.rows[0].of == "7 of 2 models × 4 edits"
    assert (report.values["unscored"]["count"], report.values["coverage"]) == (1, 7 / 8)
