"""Curation of pairs: which are dropped and why, and the data set that a scorer's recipe reads."""

import io
import json
from argparse import Namespace

import pytest
from ml_collections import ConfigDict
from PIL import Image

from rewardedit_jax.curation.pairs import AGAINST_RATINGS, CONTRADICTORY, DUPLICATE, KEPT, curate_pairs, decide
from rewardedit_jax.data.encoded import EncodedPreference, StoredPreferences
from rewardedit_jax.data.preparing import PAIRS, prepare_records
from rewardedit_jax.data.records import BadRecords, PreferenceLabel
from rewardedit_jax.scoring.recipe import PREFERENCES
from rewardedit_jax.shapes.examples import prepare_shapes


def label(
    key, preferred, names=("s", "x", "y"), ratings=((4.0, 4.0), (2.0, 2.0)), instruction="edit"
) -> PreferenceLabel:
    return PreferenceLabel(key, instruction, names, preferred, *ratings)


TIE = ((3.0, 3.0), (3.0, 3.0))
LABELS = [
    label("good", "a"),
    label("mirrored", "b", ("s", "y", "x"), ((2.0, 2.0), (4.0, 4.0))),
    label("other instruction", "a", instruction="another"),
    label("p", "a", ("s", "x", "z"), (None, None)),
    label("not p", "b", ("s", "x", "z"), (None, None)),
    label("lower", "b", ("s", "x", "w")),
    label("tie", "tie", ("s", "x", "v"), TIE),
]


def test_every_pair_has_a_reason():
    assert dict(zip((found.key for found in LABELS), decide(LABELS), strict=True)) == {
        "good": (KEPT, ""),
        "mirrored": (DUPLICATE, "good"),
        "other instruction": (KEPT, ""),
        "p": (CONTRADICTORY, "not p"),
        "not p": (CONTRADICTORY, "p"),
        "lower": (AGAINST_RATINGS, "rated (4.0, 4.0) and (2.0, 2.0), preferred: b"),
        "tie": (KEPT, ""),
    }


def test_both_rows_of_a_disentangled_tie_stay():
    """They prefer opposite edits of equal rating, each in one perspective."""
    rows = [
        label("first", "a", ratings=((4.0, 2.0), (2.0, 4.0))),
        label("second", "b", ratings=((4.0, 2.0), (2.0, 4.0))),
    ]
    assert [reason for reason, _ in decide(rows)] == [KEPT, KEPT]


class MadePairs(StoredPreferences):
    """Pairs whose images have a colour of their own for each name."""

    labels = LABELS

    def encoded(self, index: int) -> EncodedPreference:
        def picture(name: str) -> bytes:
            file = io.BytesIO()
            Image.new("RGB", (4, 4), (ord(name), 0, 0)).save(file, "png")
            return file.getvalue()

        found = self.labels[index]
        return EncodedPreference(found, *map(picture, found.names), found.names)


@pytest.fixture
def prepared(tmp_path):
    preparation = prepare_records(PAIRS, MadePairs(), tmp_path / "pairs", "made", "made pairs")
    preparation.run()
    preparation.finish()
    return tmp_path / "pairs"


def test_the_kept_pairs_are_a_data_set_that_a_recipe_reads(prepared, tmp_path, capsys):
    out = tmp_path / "out"
    for _ in range(2):  # the second run finds all of it done
        curate_pairs(Namespace(data=prepared, out=out))
    assert "3       42.9%" in capsys.readouterr().out
    lines = [json.loads(line) for line in (out / "provenance.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == [found.key for found in LABELS]
    pairs = PREFERENCES["prepared"](ConfigDict({"root": str(out)}))
    assert [found.key for found in pairs.labels] == [line["key"] for line in lines if line["kept"]]
    assert pairs[0].edited_a[0, 0, 0] == ord("x")


def test_a_data_set_of_edits_is_refused(tmp_path):
    edits = prepare_shapes(tmp_path, 4, 1)
    with pytest.raises(BadRecords, match=r"lack .*edited_a"):
        curate_pairs(Namespace(data=edits, out=tmp_path / "out"))
