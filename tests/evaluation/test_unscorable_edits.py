"""An edit that a scorer cannot score is named by its place in the benchmark, also beyond the first batches."""

import io
import json

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from tiny_scorers import shapes_scorer

from rewardedit_jax.evaluation.reward_models.aurora import (
    evaluate_pairs,
    evaluate_points,
    read_pairs,
    read_points,
)
from rewardedit_jax.evaluation.reward_models.editreward_bench import evaluate_groups, read_groups
from rewardedit_jax.evaluation.reward_models.editreward_pairs import read_hub_groups
from rewardedit_jax.evaluation.reward_models.edits import score_edits
from rewardedit_jax.evaluation.reward_models.genai_bench import read_hub_pairs
from rewardedit_jax.evaluation.reward_models.imagenhub import rated_edits, read_ratings
from rewardedit_jax.scoring.edit_score import matrix

N, BAD = 50, 45
THIN = r"900×4 pixels .* cannot be scored"
FORBIDDEN = r"the instruction contains <\|Reward\|>"


def picture(size=(32, 32)):
    out = io.BytesIO()
    Image.new("RGB", size, (200, 90, 10)).save(out, "PNG")
    return out.getvalue()


PICTURES = {name: picture() for name in ("s.png", "e.png", "f.png")}
PICTURES |= {"thin.png": picture((900, 4)), "none.png": b"no picture"}


@pytest.fixture(scope="module")
def scorer():
    return shapes_scorer()


@pytest.fixture
def write(tmp_path):
    """Writes a file of N equal records, one of them with changes."""
    for name, data in PICTURES.items():
        (tmp_path / name).write_bytes(data)

    def to(record, **changes):
        file = tmp_path / "items.json"
        file.write_text(json.dumps([record | changes if i == BAD else record for i in range(N)]))
        return file, tmp_path

    return to


def hub(tmp_path, record, **changes):
    """Writes the same as parquet, with images in place of their names."""
    rows = [record | {"id": f"g{i}_AvsB"} | (changes if i == BAD else {}) for i in range(N)]
    for row in rows:
        row.update({key: {"bytes": PICTURES[name], "path": None} for key, name in row.items() if name in PICTURES})
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "test.parquet")
    return tmp_path


PAIR = {"prompt": "x", "path_src": "s.png", "path1": "e.png", "path2": "f.png"}
PAIR |= {"model1_dim1_score": 4, "model2_dim1_score": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "x <|Reward|>"}, rf"items\.json, item 45, path1: {FORBIDDEN}"),
        ({"path2": "thin.png"}, rf"items\.json, item 45, path2: edited: image .*thin\.png: {THIN}"),
        ({"path_src": "thin.png"}, rf"items\.json, item 45, path1: source: image .*thin\.png: {THIN}"),
    ],
)
def test_pairs(scorer, write, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluate_pairs(read_pairs(*write(PAIR, **changes)), scorer, "GenAI-Bench")


def test_points(scorer, write):
    point = {"prompt": "x", "input": "s.png", "gen": "e.png", "score": 1, "model": "m"}
    with pytest.raises(ValueError, match=rf"items\.json, item 45: {FORBIDDEN}"):
        evaluate_points(read_points(*write(point, prompt="<|Reward|>"), "aurora"), scorer, "aurora")


def test_groups(scorer, write, tmp_path):
    """Every group has its own first edit, as equal groups count once."""
    for i in range(N):
        (tmp_path / f"{i}.png").write_bytes(PICTURES["s.png"])
    group = {"prompt": "x", "path_src": "s.png", "human_vote": {"ranking": "A>B>C"}}
    records = [group | {"paths_generated": [f"{i}.png", "e.png", "f.png"]} for i in range(N)]
    records[BAD]["paths_generated"][2] = "thin.png"
    file, images = write({})
    file.write_text(json.dumps(records))
    with pytest.raises(ValueError, match=rf"items, item 45, edit C: edited: image .*thin\.png: {THIN}"):
        evaluate_groups(read_groups(file, images).groups, scorer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"right_output_image": "thin.png"}, rf"right_output_image: edited: {THIN}"),
        ({"source_image": "none.png"}, "left_output_image: image source cannot be read"),
    ],
)
def test_pairs_of_the_hub(scorer, tmp_path, changes, message):
    row = {"instruct_prompt": "x", "vote_type": "leftvote", "source_image": "s.png"}
    row |= {"left_output_image": "e.png", "right_output_image": "f.png"}
    pairs = read_hub_pairs(hub(tmp_path, row, **changes))
    with pytest.raises(ValueError, match=rf"row 45 of all, {message}"):
        evaluate_pairs(pairs, scorer, "GenAI-Bench")


def test_groups_of_the_hub(scorer, tmp_path):
    row = {"dataset": "2pair", "instruction": "x", "ranking": "A>B", "comparison_type": "AvsB", "model_1": "m1"}
    row |= {"model_2": "m2", "source_image": "s.png", "candidate_1": "e.png", "candidate_2": "f.png"}
    groups = read_hub_groups(hub(tmp_path, row, candidate_2="thin.png")).groups
    with pytest.raises(ValueError, match=rf"2pair g45 \(m1, m2\), edit m2: edited: {THIN}"):
        evaluate_groups(groups, scorer)


def test_edits_of_imagenhub(scorer, write, tmp_path):
    write({})
    uids = [f"{i}.png" for i in range(N)]
    for rater in (1, 2):
        lines = ["uid\tOne", *(f"{uid}\t[1, 0]" for uid in uids)]
        (tmp_path / f"IE_rater{rater}.tsv").write_text("\n".join(lines))
    for folder in ("input", "One"):
        (tmp_path / folder).mkdir()
        for uid in uids:
            (tmp_path / folder / uid).write_bytes(PICTURES["s.png"])
    lookup = {uid: {"instruction": "<|Reward|>" if i == BAD else "x"} for i, uid in enumerate(uids)}
    (tmp_path / "dataset_lookup.json").write_text(json.dumps(lookup))
    with pytest.raises(ValueError, match=rf"One, 45\.png: {FORBIDDEN}"):
        score_edits(scorer, rated_edits(tmp_path, read_ratings(tmp_path)))


def test_a_scorer_gives_what_it_gives_as_a_callable(scorer, write):
    pairs = read_pairs(*write(PAIR, prompt="y"))[BAD - 1 : BAD + 1]
    edits = [edit for pair in pairs for edit in (pair.first, pair.second)]

    def callable_scorer(sources, edited, instructions):
        return matrix(scorer.score(list(sources), list(edited), list(instructions), improvement=False))

    assert score_edits(scorer, edits) == pytest.approx(score_edits(callable_scorer, edits), abs=1e-5)
