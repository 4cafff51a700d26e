"""Labels joined with edits by key."""

import json
import logging

import numpy as np
import pytest
from made_sets import make

from rewardedit_jax.data.labels import read_labels
from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.data.preparing import prepare_edits
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.data.triplets import TripletFile

FIRST, LAST = "0:images/20.png", "2:images/30.png"


def label(key, scores=(4, 5, 2.5), feedback=("a", "None", "c"), **more):
    return {"key": key, "scores": scores, "feedback": feedback, **more}


@pytest.fixture
def edits(tmp_path):
    """A list of triplets, and the same prepared. Its second edit has a damaged image."""
    source, _ = make("triplets", tmp_path / "source")
    preparation = prepare_edits(TripletFile(source), tmp_path / "prepared", "mine", "my triplets")
    preparation.run()
    preparation.finish()
    return {"list": source, "prepared": tmp_path / "prepared"}


def write(tmp_path, *lines):
    (tmp_path / "labels.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    return tmp_path / "labels.jsonl"


@pytest.mark.parametrize("form", ["list", "prepared"])
def test_edits_have_the_rewards_of_the_file(edits, form, tmp_path):
    labels = write(tmp_path, label(LAST), label(FIRST, scores=[0, 1, 2], model="x", failures=[]), label("unknown"))
    joined = open_edits(edits[form], labels=labels)
    assert joined.keys() == [FIRST, LAST]
    assert (joined[0].key, joined[0].feedback) == (FIRST, ("a", "None", "c"))
    np.testing.assert_array_equal(joined[0].scores, np.float32([0, 1, 2]))
    np.testing.assert_array_equal(joined.scores(), np.float32([[0, 1, 2], [4, 5, 2.5]]))
    assert joined.encoded(1).extra == {"task": "add"}
    assert joined.digests(1) == open_edits(edits["list"]).digests(2)


@pytest.mark.parametrize(
    "incomplete",
    [
        None,
        label(LAST, scores=[1, None, 2]),
        label(LAST, feedback=["a", "b", None]),
        label(LAST, scores=[None] * 3, feedback=[None] * 3, failures=[{"perspective": "quality", "reason": "refused"}]),
    ],
)
def test_edits_without_a_complete_reward_are_counted_and_left_out(edits, incomplete, tmp_path, caplog):
    labels = write(tmp_path, label(FIRST), *([incomplete] if incomplete else []))
    with caplog.at_level(logging.WARNING):
        joined = open_edits(edits["prepared"], labels=labels)
    assert joined.keys() == [FIRST]
    assert len(joined) == 1
    assert "1 of 2 edits have no complete reward" in caplog.text


def test_no_complete_reward_at_all_is_an_error(edits, tmp_path):
    with pytest.raises(BadRecords, match="none of the 2 edits has a complete reward"):
        open_edits(edits["prepared"], labels=write(tmp_path, label("unknown"), label(FIRST, scores=[None, 1, 2])))


def test_two_labels_of_an_edit_are_refused(edits, tmp_path):
    labels = write(tmp_path, label(FIRST), label(LAST), label(FIRST, scores=[1, 1, 1]))
    with pytest.raises(BadRecords, match=f"2 labels of '{FIRST}'"):
        open_edits(edits["prepared"], labels=labels)
    assert open_edits(edits["prepared"], labels=labels, skip_bad=True)[0].scores[0] == 1  # the last one counts


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"key": 3}', "key=3"),
        (json.dumps({"key": FIRST, "scores": [1, 2, 3]}), "feedback"),
        (json.dumps(label(FIRST, scores=[1, 2, 7])), r"scores\[2\]=7"),
        (json.dumps(label(FIRST, scores=[1, 2])), "scores"),
        (json.dumps(label(FIRST, feedback=["a", 2, "c"])), r"feedback\[1\]=2"),
        ("[1]", "object"),
        ('{"key": "a", ', "not JSON"),
    ],
)
def test_lines_that_are_no_labels_are_named(edits, tmp_path, line, fault):
    file = write(tmp_path, label(LAST))
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(BadRecords, match=rf"labels\.jsonl(?s:.)*line 2: .*{fault}"):
        read_labels(file)
    assert list(read_labels(file, skip_bad=True)) == [LAST]


def test_a_missing_file_is_named(edits, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl.*launch/label\.py"):
        open_edits(edits["prepared"], labels=tmp_path / "nowhere.jsonl")
