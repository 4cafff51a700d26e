"""EditReward-Bench: the same groups from both layouts, and accuracies that were computed by hand."""

import io
import json

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.evaluation.reward_models.editreward_bench import (
    Group,
    ReadGroups,
    evaluate_groups,
    join_groups,
    measure_groups,
    read_groups,
)
from rewardedit_jax.evaluation.reward_models.editreward_pairs import read_hub_groups
from rewardedit_jax.evaluation.reward_models.edits import Edit


def group(order, size=2):
    return Group("k", (Edit(b"", b"", ""),) * size, order)


def rows(report):
    return {(row.measure, row.protocol): (round(row.value, 6), row.of) for row in report.rows}


def test_two_edits_under_both_protocols():
    """Published, the best threshold is 0.2; it is not applied to the last group, whose margin of 0.05 is right."""
    groups = [group((0, 1)), group((1, 0)), group(None), group(None), group((0, 1))]
    scores = [np.array(s) for s in ([2.0, 1.0], [0.0, 3.0], [1.0, 1.2], [1.0, 0.9], [0.05, 0.0])]
    measured = rows(measure_groups(groups, scores))
    assert measured["K = 2, pairwise", "published"] == (0.8, "5 pairs")
    assert measured["K = 2, strict", "published"] == (1.0, "5 groups")


def test_the_sound_threshold_applies_to_all_groups_of_two():
    groups = [group((0, 1)), group(None), group((1, 0))] * 8
    scores = [np.array(s) for s in ([2.0, 1.0], [1.0, 1.1], [0.1, 0.0])] * 8
    measured = rows(measure_groups(groups, scores))
    assert measured["K = 2, strict", "sound"][0] == measured["K = 2, pairwise", "sound"][0]
    assert measured["K = 2, strict", "sound"][0] == pytest.approx(16 / 24, abs=1e-5)


def test_orders_of_three_and_four():
    """Three edits: right; one pair of neighbours exchanged. Four edits: right; reversed."""
    groups = [group((2, 0, 1), 3), group((0, 1, 2), 3), group((3, 2, 1, 0), 4), group((3, 2, 1, 0), 4)]
    scores = [np.array(s, float) for s in ([2, 1, 3], [2, 3, 1], [1, 2, 3, 4], [4, 3, 2, 1])]
    measured = rows(measure_groups(groups, scores))
    for protocol in ("published", "sound"):
        assert measured["K = 3, strict", protocol] == (0.5, "2 groups")
        assert measured["K = 3, pairwise", protocol] == (round(5 / 6, 6), "6 pairs")
        assert measured["K = 4, pairwise", protocol] == (0.5, "12 pairs")
        assert measured["overall, strict", protocol] == (0.5, "4 groups")
    assert measured["overall, pairwise", "sound"] == (round(11 / 18, 6), "18 pairs")
    # Published, one threshold of all pairs: 0 here, as calling ties gains nothing.
    assert measured["overall, pairwise", "published"] == (round(11 / 18, 6), "18 pairs")


def test_equal_scores_rank_the_later_edit_higher_where_published():
    scores = [np.array([1.0, 1, 1])] * 2
    measured = rows(measure_groups([group((2, 1, 0), 3), group((0, 1, 2), 3)], scores))
    assert measured["K = 3, strict", "published"] == (0.5, "2 groups")
    assert measured["K = 3, strict", "sound"] == (0.0, "2 groups")
    assert measured["K = 3, pairwise", "published"] == (0.0, "6 pairs")


def test_overall_is_of_all_groups_not_the_mean_of_shares():
    groups = [group((0, 1))] * 3 + [group((0, 1, 2), 3)]
    scores = [np.array([1.0, 0])] * 3 + [np.array([0.0, 1, 2])]
    report = measure_groups(groups, scores)
    assert rows(report)["overall, strict", "published"] == (0.75, "4 groups")
    counts = report.to_json()["counts"]
    assert counts["overall"] == {"groups": 4, "strictly_right": {"published": 3, "sound": 3}}


def paint(level):
    out = io.BytesIO()
    Image.new("RGB", (2, 2), (level,) * 3).save(out, "PNG")
    return out.getvalue()


def hub_row(key, letters, ranking, levels, models=("m1", "m2"), size=2):
    first, second = levels
    return {
        "id": f"{key}_{letters}",
        "dataset": f"{size}pair",
        "instruction": "brighter",
        "source_image": {"bytes": paint(0), "path": None},
        "candidate_1": {"bytes": paint(first), "path": None},
        "candidate_2": {"bytes": paint(second), "path": None},
        "ranking": ranking,
        "comparison_type": letters,
        "model_1": models[0],
        "model_2": models[1],
    }


def write_hub(folder, rows):
    (folder / "2pair").mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "2pair" / "train-0.parquet")


THREE = [  # B > C > A
    hub_row("g3", "AvsB", "B>A", (10, 30), size=3),
    hub_row("g3", "AvsC", "C>A", (10, 20), size=3),
    hub_row("g3", "BvsC", "B>C", (30, 20), size=3),
]
TWO = [hub_row("g1", "AvsB", "A>B", (90, 10)), hub_row("g2", "AvsB", "A=B", (50, 50))]


def json_items(tmp_path):
    for level in (0, 10, 20, 30, 50, 90):
        (tmp_path / f"{level}.png").write_bytes(paint(level))
    (tmp_path / "50b.png").write_bytes(paint(50))

    def item(ranking, *names):
        vote = {"ranking": ranking, "preference": ""}
        paths = [f"{name}.png" for name in names]
        return {"prompt": "brighter", "path_src": "0.png", "paths_generated": paths, "human_vote": vote}

    return item


def write_json(tmp_path, items):
    file = tmp_path / "EditReward_Bench_pairs.json"
    file.write_text(json.dumps(items))
    return file


def brightness(sources, edited, instructions):
    return np.array([[0, 0, np.asarray(picture).mean()] for picture in edited])


def test_both_layouts_give_the_same_groups(tmp_path):
    write_hub(tmp_path / "hub", [*TWO, *THREE])
    item = json_items(tmp_path)
    file = write_json(
        tmp_path, [item("A>B", 90, 10), item("A=B=Good", 50, "50b"), item("B>C>A", 10, 30, 20), item("A<B", 20, 30)]
    )
    hub, files = read_hub_groups(tmp_path / "hub").groups, read_groups(file, tmp_path).groups
    assert [g.order for g in hub] == [(0, 1), None, (1, 2, 0)]
    assert [g.order for g in files] == [(0, 1), None, (1, 2, 0), (1, 0)]
    measured = [measure.to_json()["rows"] for measure in (evaluate_groups(g, brightness) for g in (hub, files[:3]))]
    assert measured[0] == measured[1]
    assert next(row for row in measured[0] if row["measure"] == "K = 3, strict")["value"] == 1


def test_keys_of_hub_groups(tmp_path):
    """The part before the underscore, or ten letters; for two edits also the models."""
    rows = [*TWO[:1], *THREE, {**TWO[0], "id": "abcdefghijklm"}]
    write_hub(tmp_path, rows)
    keys = [group.key for group in read_hub_groups(tmp_path).groups]
    assert keys == ["2pair g1 (m1, m2)", "3pair g3", "2pair abcdefghij (m1, m2)"]


def test_contradictory_pairs_are_named_and_left_out_on_demand(tmp_path):
    """Repetitions with the models in the other order: one agrees, one does not."""
    agreeing = hub_row("g1", "AvsB", "B>A", (10, 90), ("m2", "m1"))
    other = hub_row("g2", "AvsB", "A>B", (50, 50))
    write_hub(tmp_path, [*TWO, agreeing, other, *THREE])
    with pytest.raises(BadRecords, match=r"1 bad record\n.*2pair g2 \(m1, m2\): contradictory rankings of m1 and m2"):
        read_hub_groups(tmp_path)
    read = read_hub_groups(tmp_path, skip_bad=True)
    assert [g.key for g in read.groups] == ["2pair g1 (m1, m2)", "3pair g3"]
    assert read.left_out == ["2pair g2 (m1, m2)"]


def test_rows_of_a_group_with_different_images_are_logged(tmp_path, caplog):
    write_hub(tmp_path, [THREE[0], hub_row("g3", "AvsC", "C>A", (60, 20), size=3), THREE[2]])
    with caplog.at_level("WARNING"):
        (group,) = read_hub_groups(tmp_path).groups
    assert "3pair g3: rows differ in A;" in caplog.text
    write_hub(tmp_path / "alike", THREE)
    assert read_hub_groups(tmp_path / "alike").groups == [group]


def test_a_group_with_a_faulty_row_is_left_out_once(tmp_path):
    """A faulty row leaves out its whole group; a row without a group goes by its number."""
    write_hub(tmp_path, [*TWO, *THREE[:2], {**THREE[2], "comparison_type": "BvsD"}, {**TWO[0], "id": ""}])
    read = read_hub_groups(tmp_path, skip_bad=True)
    assert [g.key for g in read.groups] == ["2pair g1 (m1, m2)", "2pair g2 (m1, m2)"]
    assert read.left_out[0] == "3pair g3"
    assert [key.split(".parquet ")[1] for key in read.left_out[1:]] == ["row 5 of all"]


def test_what_is_left_out_is_in_the_report():
    edits = tuple(Edit(paint(0), paint(level), "x") for level in (10, 90))
    groups = [Group("a", edits, (0, 1)), Group("b", edits, (1, 0))]
    keys = [f"bad{i}" for i in range(12)]
    report = evaluate_groups(groups, brightness, left_out=keys)
    assert report.to_json()["left_out"] == {"count": 12, "first": keys[:10]}
    assert "12 groups with faults are left out: bad0; bad1;" in report.to_text()


CYCLE = [{**row, "ranking": ranking} for row, ranking in zip(THREE, ("A>B", "C>A", "B>C"), strict=True)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (THREE[:2], "3pair g3: has 2 of the 3 pairs of 3 edits"),
        (CYCLE, "3pair g3: its pairs make no order"),
        ([*THREE[:2], {**THREE[2], "ranking": "B=C"}], "unknown ranking 'B=C' of BvsC"),
        ([{**TWO[0], "ranking": "left"}], "unknown ranking 'left' of AvsB"),
        ([{**TWO[0], "comparison_type": "AvsC"}], "row 0 of all: unknown comparison_type 'AvsC'"),
        ([{**TWO[0], "dataset": "5pair"}], "row 0 of all: dataset='5pair'"),
        ([{**TWO[0], "candidate_2": {"bytes": b"", "path": None}}], "row 0 of all: candidate_2.bytes=b''"),
    ],
)
def test_faults_of_hub_rows(tmp_path, rows, message):
    write_hub(tmp_path, rows)
    with pytest.raises(BadRecords, match=message):
        read_hub_groups(tmp_path)


def test_other_parquet_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file \*\.parquet under"):
        read_hub_groups(tmp_path)
    parquet.write_table(pyarrow.table({"id": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="lacks dataset, model_1"):
        read_hub_groups(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ValueError, match="is not parquet"):
        read_hub_groups(tmp_path)


def test_json_groups_repeated_and_contradictory(tmp_path):
    item = json_items(tmp_path)
    repeated = write_json(tmp_path, [item("A>B", 90, 10), item("B>A", 10, 90), item("B>A", 20, 30)])
    assert [g.order for g in read_groups(repeated, tmp_path).groups] == [(0, 1), (1, 0)]
    file = write_json(tmp_path, [item("A>B", 90, 10), item("A>B", 10, 90), item("B>A", 20, 30)])
    with pytest.raises(BadRecords, match=r"item 0, .*item 1: .*contradictory rankings"):
        read_groups(file, tmp_path)
    read = read_groups(file, tmp_path, skip_bad=True)
    assert [g.key for g in read.groups] == ["EditReward_Bench_pairs, item 2"]
    assert read.left_out == ["EditReward_Bench_pairs, item 0"]


@pytest.mark.parametrize(
    ("ranking", "names", "known"),
    [
        ("A=B", (10, 20), "A=B=Good"),  # the hub's word; the published code takes it for A>B
        ("C>A>B", (10, 20), "A>B"),
        ("A>B", (10, 20, 30), "A>B>C, A>C>B"),
        ("A<B<C", (10, 20, 30), "A>B>C, A>C>B"),  # which the published code reads backwards
        (None, (10, 20, 30, 50), "A>B>C>D, A>B>D>C"),
    ],
)
def test_unknown_json_rankings(tmp_path, ranking, names, known):
    file = write_json(tmp_path, [json_items(tmp_path)(ranking, *names)])
    with pytest.raises(BadRecords, match=f"item 0: the ranking of {len(names)} edits is {ranking!r}; .*{known}"):
        read_groups(file, tmp_path)


def test_faults_name_the_flag_and_no_group_is_an_error(tmp_path):
    item = json_items(tmp_path)
    file = write_json(tmp_path, [item("best", 90, 10), item("A>B", 20)])
    with pytest.raises(BadRecords, match=r"--skip-bad N \(skip_bad=N\)"):
        read_groups(file, tmp_path)
    with pytest.raises(BadRecords, match="2 bad records"):
        read_groups(file, tmp_path, skip_bad=1)
    read = read_groups(file, tmp_path, skip_bad=2)
    with pytest.raises(ValueError, match=r"no group .*: all 2 .*item 0; .*item 1"):
        join_groups([read])
    with pytest.raises(ValueError, match="no group"):
        join_groups([ReadGroups([], [])])
    with pytest.raises(ValueError, match="no groups"):
        evaluate_groups([], brightness)


def test_json_items_without_paths(tmp_path):
    item = json_items(tmp_path)("A>B", 10, 20)
    for change, measured in (
        ({"path_src": ""}, "item 0: path_src=''"),
        ({"paths_generated": ["10.png"]}, "item 0: paths_generated=\\['10.png'\\]"),
        ({"prompt": "\t"}, "item 0: prompt="),
        ({"path_src": "../0.png"}, r"item 0: '\.\./0\.png' lies outside"),
    ):
        with pytest.raises(BadRecords, match=measured):
            read_groups(write_json(tmp_path, [{**item, **change}]), tmp_path)


def test_groups_with_an_edit_without_a_score(tmp_path):
    """Published: wrong, with all their pairs. Sound: left out."""
    groups = [group((0, 1)), group((1, 0)), group((0, 1)), group((0, 1, 2), 3), group((0, 1, 2), 3)]
    nan = np.nan
    scores = [np.array(s) for s in ([2.0, 1.0], [0.0, 3.0], [1.0, nan], [3.0, 2.0, 1.0], [3.0, 2.0, nan])]
    report = measure_groups(groups, scores)
    measured = rows(report)
    assert measured["K = 2, strict", "published"] == (round(2 / 3, 6), "3 groups")
    assert measured["K = 2, pairwise", "published"] == (round(2 / 3, 6), "3 pairs")
    assert measured["K = 2, strict", "sound"] == (1.0, "2 groups")
    assert measured["K = 3, strict", "published"] == (0.5, "2 groups")
    assert measured["K = 3, pairwise", "published"] == (0.5, "6 pairs")
    assert measured["K = 3, pairwise", "sound"] == (1.0, "3 pairs")
    assert measured["overall, pairwise", "published"] == (round(5 / 9, 6), "9 pairs")
    assert measured["overall, strict", "sound"] == (1.0, "3 groups")
    assert report.to_json()["counts"]["overall"] == {"groups": 5, "strictly_right": {"published": 3, "sound": 3}}


def test_an_edit_without_an_image_is_left_out_on_demand(tmp_path):
    item = json_items(tmp_path)
    items = [item("A>B", 90, 10), item("B>A", 20, 30), item("A>B", 50, 20), item("A>B", 50, 77)]
    groups = read_groups(write_json(tmp_path, items)).groups
    with pytest.raises(ValueError, match=r"1 of 8 edits .*\n.*item 3, edit B: missing image .*77\.png"):
        evaluate_groups(groups, brightness)
    report = evaluate_groups(groups, brightness, skip_bad=1)
    assert rows(report)["K = 2, strict", "published"] == (0.75, "4 groups")
    assert rows(report)["K = 2, strict", "sound"][1] == "3 groups"
    assert report.values["coverage"] == 7 / 8
