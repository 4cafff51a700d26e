"""GEdit-Bench: minimum of two scores, root of the product, means over tasks and over edits, failures counted."""

import json
import math
import re

import pytest
from made_benchmarks import evaluate, read, store_answers, write_gedit_bench

from rewardedit_jax.evaluation.editing_benchmarks.gedit_bench import GEDIT_BENCH, QUESTIONS, overall
from rewardedit_jax.evaluation.editing_benchmarks.outcomes import Outcome
from rewardedit_jax.judging.answers import NoVerdict
from rewardedit_jax.judging.images import ImageSettings
from rewardedit_jax.judging.rubrics import read_rubrics
from rewardedit_jax.judging.store import Store

CONSISTENCY, QUALITY = "semantic_consistency", "perceptual_quality"
# Number of the row → ((scores of consistency), (scores of quality)); None: the judge's answer cannot be read.
SCORES = {
    0: ((8, 6), (9, 7)),
    1: ((4, 10), (5, 5)),
    2: ((0, 10), (8, 8)),
    3: (None, (10, 10)),
    4: ((2, 3), (4, 9)),
    5: ((10, 10), None),
}
ROWS = [
    *(("1", "en", "style_change", True), ("2", "en", "style_change", False), ("3", "en", "text_change", True)),
    *(("4", "en", "text_change", True), ("1", "cn", "style_change", True), ("3", "cn", "text_change", False)),
]


def answer(instruction, measure):
    scores = SCORES[int(instruction.split()[1])][measure == QUALITY]
    return "no JSON" if scores is None else json.dumps({"score": list(scores), "reasoning": "x"})


def test_every_shipped_rubric_asks_for_its_form():
    for rubric in read_rubrics(GEDIT_BENCH.rubrics, QUESTIONS).values():
        example = json.loads(re.findall(r"\{\"[^{}]*\}", rubric.text)[-1])
        assert list(example) == [*rubric.form.keys]
        assert len(example["score"]) == rubric.form.scores


def test_overall_is_the_root_of_the_product():
    failure = NoVerdict("timeout")
    assert overall({CONSISTENCY: Outcome(4.0), QUALITY: Outcome(9.0)}) == {"overall": Outcome(6.0)}
    assert overall({CONSISTENCY: Outcome(0.0), QUALITY: Outcome(9.0)}) == {"overall": Outcome(0.0)}
    for pair in ((Outcome(4.0), Outcome(failure=failure)), (Outcome(failure=failure), Outcome(9.0))):
        assert overall(dict(zip((CONSISTENCY, QUALITY), pair, strict=True))) == {"overall": Outcome(failure=failure)}


@pytest.mark.parametrize("sizes", GEDIT_BENCH.image_sizes)
@pytest.mark.usefixtures("_editor")
def test_the_published_aggregation(tmp_path, sizes):
    data, folder = write_gedit_bench(tmp_path / "data", ROWS), tmp_path / "o"
    Store(tmp_path / "s.sqlite", create=True).close()
    arguments = ("gedit_bench", "--data", data, "--model", "m", "--steps", 1, "--resolution", 16, "--json",
                 tmp_path / "o.json", "--judge", "replay", "--store", tmp_path / "s.sqlite")  # fmt: skip
    with pytest.raises(ValueError, match="no answers"):
        evaluate(*arguments)
    assert not (folder / "edits").exists()  # wrong arguments fail before an edit is made
    evaluate(*arguments[:-6], "--output", folder, "--judge", "none")
    assert (folder / "edits" / "style_change" / "cn" / "1.png").is_file()  # as the published results are named
    images = ImageSettings(sizes=sizes)
    store_answers(tmp_path / "s.sqlite", folder, (QUESTIONS, GEDIT_BENCH.rubrics, images), answer)
    evaluate(*arguments)
    report = read(tmp_path / "o.json")
    assert [*report["sets"]] == ["en", "en intersection", "cn", "cn intersection"]
    assert report["judge"]["images"] == images.name

    def lowest(number, measure):
        scores = SCORES[number][measure == QUALITY]
        return None if scores is None else min(scores)

    for name, by_task in {
        "en": {"style_change": (0, 1), "text_change": (2, 3)},
        "en intersection": {"style_change": (0,), "text_change": (2, 3)},
        "cn": {"style_change": (4,), "text_change": (5,)},
        "cn intersection": {"style_change": (4,)},
    }.items():
        found = report["sets"][name]
        for measure in (CONSISTENCY, QUALITY, "overall"):

            def score(number, measure=measure):
                if measure != "overall":
                    return lowest(number, measure)
                both = [lowest(number, m) for m in (CONSISTENCY, QUALITY)]
                return None if None in both else math.sqrt(both[0] * both[1])

            scores = {task: [score(n) for n in numbers] for task, numbers in by_task.items()}
            known = {task: [s for s in some if s is not None] for task, some in scores.items()}
            every = [s for some in known.values() for s in some]
            means = [sum(some) / len(some) for some in known.values() if some]
            totals = found[measure]
            assert totals["total"] == sum(map(len, by_task.values()))
            assert totals["answered"] == len(every)
            assert totals["failed"] == totals["total"] - len(every)
            assert totals["reasons"] == ({"not JSON": totals["failed"]} if totals["failed"] else {})
            assert totals["score"] == pytest.approx(sum(every) / len(every))
            assert totals["macro_score"] == pytest.approx(sum(means) / len(means))
            assert totals["macro_types"] == len(means)
            assert "accuracy" not in totals
    (item,) = (item for item in report["items"] if item["key"] == "en/1")
    assert item[CONSISTENCY]["scores"] == [8, 6]
    assert item["sets"] == ["en", "en intersection"]


def test_a_judge_of_perspectives_cannot_answer(tmp_path, capsys):
    with pytest.raises(SystemExit):
        evaluate("gedit_bench", "--data", tmp_path, "--model", "m", "--judge", "scorer", "--store", "s")
    assert "scorer" in capsys.readouterr().err
