"""ImgEdit-Bench: three scores in one answer, their mean by edit and by type."""

import json
import re

import pytest
from made_benchmarks import evaluate, read, store_answers
from made_sets import imgedit_bench, write

from rewardedit_jax.data.imgedit_bench import ImgEditBench
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.evaluation.editing_benchmarks.imgedit_bench import IMGEDIT_BENCH, QUESTIONS
from rewardedit_jax.judging.images import ImageSettings
from rewardedit_jax.judging.rubrics import read_rubrics
from rewardedit_jax.judging.store import Store

SCORES = {"edit 0": [5, 4, 3], "edit 2": [2, 1, 1]}


def test_the_shipped_rubric_asks_for_its_form():
    (rubric,) = read_rubrics(IMGEDIT_BENCH.rubrics, QUESTIONS).values()
    example = json.loads(re.findall(r"\{\"[^{}]*\}", rubric.text)[-1])
    assert list(example) == [*rubric.form.keys]
    assert len(example["score"]) == rubric.form.scores


@pytest.mark.usefixtures("_editor")
def test_the_mean_of_three_scores(tmp_path):
    imgedit_bench(tmp_path / "data")
    folder = tmp_path / "o"
    Store(tmp_path / "s.sqlite", create=True).close()
    arguments = ("imgedit_bench", "--data", tmp_path / "data", "--model", "m", "--steps", 1, "--resolution", 16,
                 "--json", tmp_path / "o.json", "--judge", "replay", "--store", tmp_path / "s.sqlite")  # fmt: skip
    with pytest.raises(ValueError, match="no answers"):
        evaluate(*arguments)
    assert not (folder / "edits").exists()  # wrong arguments fail before an edit is made
    evaluate(*arguments[:-6], "--output", folder, "--judge", "none")
    assert (tmp_path / "o" / "edits" / "12.png").is_file()  # as the published evaluation expects it

    def answer(instruction, measure):
        return json.dumps({"score": SCORES[instruction], "reasoning": "x"})

    store_answers(tmp_path / "s.sqlite", tmp_path / "o", (QUESTIONS, IMGEDIT_BENCH.rubrics, ImageSettings()), answer)
    evaluate(*arguments)
    report = read(tmp_path / "o.json")
    assert report["compliance"]["score"] == 3.5
    assert report["naturalness"]["score"] == 2.5
    assert report["average"]["score"] == pytest.approx((4 + 4 / 3) / 2)
    assert report["types"]["alter"]["average"]["score"] == 4
    assert report["types"]["add"]["average"]["score"] == pytest.approx(4 / 3)
    assert report["average"]["reasons"] == {"missing image": 1}
    assert (report["average"]["total"], report["average"]["failed"]) == (3, 1)
    assert [item["group"] for item in report["items"]] == ["animal/1.png", "2.png", "animal/1.png"]


def test_malformed_requests_are_named(tmp_path):
    imgedit_bench(tmp_path)
    requests = json.loads((tmp_path / "basic_edit.json").read_text())
    requests["7"]["prompt"] = " "
    requests["12"]["id"] = "../secret.png"
    write(tmp_path / "basic_edit.json", requests)
    with pytest.raises(BadRecords, match=r"(?s)7: prompt=' '.*12: .*secret"):
        ImgEditBench(tmp_path)
    assert ImgEditBench(tmp_path, skip_bad=True).keys() == ["100"]
