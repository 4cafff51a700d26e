"""The PNG form of contact sheets: which items it shows, its size, and what it does with what is missing."""

import numpy as np
import pytest
from made_sheets import SYSTEMS, TYPES, made_items, picture
from PIL import Image

from rewardedit_jax.evaluation import contact_sheets
from rewardedit_jax.evaluation.contact_sheets import (
    Cell,
    SheetItem,
    choose_items,
    measure_names,
    read_picture,
    score_of,
    system_names,
    write_sheet,
)


@pytest.fixture
def footers(monkeypatch):
    """The footers of the sheets that a test writes."""
    written = []
    monkeypatch.setattr(contact_sheets.Sheet, "footer", lambda self, text: written.append(text))
    return written


def item(key, edit_type, **scores):
    return SheetItem(
        key, edit_type, "make it red", b"", {name: Cell(None, {"q": score}) for name, score in scores.items()}
    )


def test_the_sheet_has_a_row_per_type_and_a_column_per_system(tmp_path):
    file = tmp_path / "new" / "sheet.png"
    write_sheet(made_items(tmp_path), file, "three editors")
    with Image.open(file) as sheet:
        assert sheet.format == "PNG"
        # Margins, a picture for the source and each system, the column of text.
        assert sheet.width == 2 * 20 + 3 * (192 + 12) - 12 + 168 + 12
        row = 192 + 12 + 16 * 3
        assert sheet.height == 2 * 20 + (12 + 22) + 3 * row + 5 * 16
        pixels = np.asarray(sheet.convert("RGB"))
    for r in range(3):
        top = 20 + 34 + r * row
        # No cell is blank: pictures have colors, and a failed one is grey with a reason.
        for left in (20, 20 + 204 + 180, 20 + 2 * 204 + 180):
            assert (pixels[top : top + 192, left : left + 192] != 255).any()


def test_the_rule_chooses_the_median_of_the_first_system_and_says_so(tmp_path, footers):
    items = [item("a", "Local", one=1, two=5), item("b", "Local", one=3, two=1), item("c", "Local", one=2, two=0)]
    items += [item("d", "Global", one=4, two=0), item("e", "Global", one=None, two=5)]
    assert [chosen.key for chosen in choose_items(items, "one", ["q"])] == ["c", "e"]
    assert [chosen.key for chosen in choose_items(items, "two", ["q"])] == ["b", "d"]
    write_sheet(items, tmp_path / "sheet.png", "two editors")
    text = " ".join(footers[0].split())
    assert "two editors" in text
    assert "2 of 5 items" in text
    assert "median mean score of one" in text
    assert "Shown: c, e." in text


def test_the_first_of_equal_items_is_chosen():
    items = [item(key, "Local", one=2) for key in "abcd"]
    assert [chosen.key for chosen in choose_items(items, "one", ["q"])] == ["b"]
    assert [chosen.key for chosen in choose_items(items[:1], "one", ["q"])] == ["a"]


def test_a_sheet_without_scores_or_types(tmp_path):
    source = picture(tmp_path / "a.png", (1, 2, 3))
    items = [SheetItem(key, "", "", source, {"one": Cell(source)}) for key in "abc"]
    assert [chosen.key for chosen in choose_items(items, "one", [])] == ["b"]
    write_sheet(items, tmp_path / "one.png", "")
    with Image.open(tmp_path / "one.png") as one:
        assert one.height == 2 * 20 + (12 + 22) + 192 + 12 + 16 + 5 * 16


def test_texts_that_do_not_fit_are_cut(tmp_path):
    """A longer text changes nothing outside its place."""
    source = picture(tmp_path / "a.png", (1, 2, 3))
    pages = []
    for letters in (1_000, 2_000):
        cells = {"s" * letters: Cell(source, {"measure" * letters: 1.5}, "because " * letters)}
        write_sheet(
            [SheetItem("k" * letters, "t" * letters, "words " * letters, source, cells)], tmp_path / "s.png", ""
        )
        with Image.open(tmp_path / "s.png") as sheet:
            pages.append(np.asarray(sheet.convert("RGB")))
    assert (pages[0] == pages[1]).all()


@pytest.mark.parametrize(
    ("instruction", "shown"),
    [
        ("make it red", "make it red"),
        ("ajoute un café à gauche", "ajoute un café à gauche"),
        ("add a hat 🎉", "add a hat 🎉"),
        ("把背景换成海滩", "(see k: this font lacks its letters)"),
        ("", ""),
    ],
)
def test_an_instruction_that_the_font_lacks_is_named(instruction, shown):
    assert contact_sheets._in_font(SheetItem("k", "", instruction, b"", {})) == shown


def test_pictures_that_cannot_be_read_are_reasons(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert "no reason" in read_picture(None, "", "a")
    assert read_picture(None, "refused", "a") == "refused"
    assert "broken.png" in read_picture(tmp_path / "broken.png", "", "a")
    assert "gone.png" in read_picture(tmp_path / "gone.png", "", "a")
    assert "item 3" in read_picture(b"", "", "item 3")
    assert read_picture(picture(tmp_path / "a.png", (1, 2, 3)), "", "a").size == (32, 24)


@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
def test_a_score_is_finite_or_none(score):
    assert score_of(Cell(None, {"q": score}), "q") is None
    assert score_of(Cell(None, {"q": 0}), "q") == 0
    assert score_of(Cell(), "q") is None


def test_names_keep_their_order(tmp_path):
    items = made_items(tmp_path)
    assert system_names(items) == [*SYSTEMS]
    assert measure_names(items) == ["following", "quality"]
    assert [chosen.edit_type for chosen in choose_items(items, "base", ["quality"])] == [*TYPES]
    more = SheetItem("more", "", "", b"", {"third": Cell(), "base": Cell()})
    assert system_names([*items, more]) == [*SYSTEMS, "third"]


def test_items_without_a_key_of_their_own_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"1 key .*: a"):
        write_sheet([item("a", "Local", one=1)] * 2, tmp_path / "sheet.png", "")
    with pytest.raises(ValueError, match="at least one system"):
        write_sheet([], tmp_path / "sheet.png", "")
    assert not (tmp_path / "sheet.png").exists()
