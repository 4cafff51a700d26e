"""The web page of a contact sheet: its texts are texts, its pictures are in it, and it is written as a stream."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from made_sheets import HOSTILE, MEASURES, SYSTEMS, encoded, made_items, picture
from PIL import Image

from rewardedit_jax.evaluation import contact_page
from rewardedit_jax.evaluation.contact_page import write_page
from rewardedit_jax.evaluation.contact_sheets import Cell, SheetItem

VOID = {"img", "input", "meta", "link", "br"}


class Page(HTMLParser):
    """Tags with their attributes, and the text of every element by its path."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.path = [], [], []
        self.feed(text)
        self.close()
        assert not self.path, "every tag is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.path.append((tag, dict(attrs).get("class")))
            self.texts.append([self.path[-1], ""])

    def handle_endtag(self, tag):
        assert self.path.pop()[0] == tag

    def handle_data(self, data):
        if self.path:
            last = next(text for text in reversed(self.texts) if text[0] == self.path[-1])
            last[1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def texts_of(self, tag, of_class=None):
        return [text for (name, found), text in self.texts if name == tag and found == of_class]


def read(file):
    text = file.read_text("utf-8")
    return text, Page(text)


def image(url):
    kind, data = url.split(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


@pytest.fixture
def page(tmp_path):
    write_page(made_items(tmp_path), tmp_path / "page.html", "A <title> & more", side=64)
    return read(tmp_path / "page.html")


def test_every_item_is_there_once(page, tmp_path):
    articles, items = page[1].all("article"), made_items(tmp_path)
    assert [article["data-key"] for article in articles] == [item.key for item in items]
    for article, item in zip(articles, items, strict=True):
        assert article["data-type"] == item.edit_type
        expected = [[item.cells[s].scores.get(m) for m in MEASURES] for s in SYSTEMS]
        assert json.loads(article["data-scores"]) == expected
        assert json.loads(article["data-failed"]) == [None in scores for scores in expected]


def test_texts_are_texts(page, tmp_path):
    text, parsed = page
    instructions = [item.instruction for item in made_items(tmp_path)]
    # The last one is the empty place of the enlarged picture.
    assert parsed.texts_of("p", "instruction") == [*instructions, ""]
    assert len(parsed.all("script")) == 1
    assert not parsed.all("b")[len(re.findall(r"<div[^>]*><b>", text)) :]
    assert parsed.texts_of("title") == ["A <title> & more"]
    assert "out of memory <8>" in parsed.texts_of("div", "none")
    assert "the judge refused" in parsed.texts_of("p", "failed")


def test_every_text_may_be_hostile(tmp_path):
    source = picture(tmp_path / "a.png", (1, 2, 3))
    for text in HOSTILE:
        items = [
            SheetItem(text, text, text, source, {text: Cell(None, {text: None}, text), "b": Cell(source, {}, text)})
        ]
        write_page(items, tmp_path / "page.html", text)
        parsed = read(tmp_path / "page.html")[1]
        assert (len(parsed.all("script")), len(parsed.all("article"))) == (1, 1)
        assert parsed.all("article")[0]["data-key"] == text
        assert parsed.texts_of("figcaption") == ["source", text, "b"]
        names = re.search(r"const systems = (.*), measures = (.*);", parsed.texts_of("script")[0])
        assert [json.loads(found) for found in names.groups()] == [[text, "b"], [text]]


def test_names_of_files_that_are_not_utf8(tmp_path):
    write_page([SheetItem("a\udcff.png", "", "", encoded((8, 8)), {"one": Cell()})], tmp_path / "page.html", "")
    assert read(tmp_path / "page.html")[1].all("article")[0]["data-key"] == "a\\udcff.png"


def test_pictures_are_in_the_page(page):
    pictures = page[1].all("img")
    # A source for each item, two systems, without the three pictures that are missing.
    assert len(pictures) == 24 * 3 - 3
    assert {picture["loading"] for picture in pictures} == {"lazy"}
    assert all(image(picture["src"]).size in ((32, 24), (64, 43)) for picture in pictures)
    # Small pictures are shown at a multiple of their size.
    assert {(p["width"], p["height"], p.get("class")) for p in pictures} == {("64", "48", "small"), ("64", "43", None)}


@pytest.mark.parametrize(
    ("size", "side", "kept", "shown"),
    [
        ((300, 200), 256, (256, 171), (256, 171)),
        ((200, 300), 256, (171, 256), (171, 256)),
        ((200, 100), 256, (200, 100), (200, 100)),
        ((16, 8), 256, (16, 8), (256, 128)),
        ((4096, 2), 256, (256, 1), (256, 1)),
        ((1, 1), 256, (1, 1), (256, 256)),
    ],
)
def test_sizes_of_thumbnails(size, side, kept, shown):
    found = contact_page._thumbnail(encoded(size), "", "a", side)
    assert image(found["url"]).size == kept
    assert (found["width"], found["height"]) == shown


def test_small_pictures_lose_nothing():
    pixels = Image.effect_noise((32, 32), 80).convert("RGB")
    data = io.BytesIO()
    pixels.save(data, "PNG")
    found = contact_page._thumbnail(data.getvalue(), "", "a", 256)
    assert image(found["url"]).convert("RGB").tobytes() == pixels.tobytes()


def test_the_page_refers_to_nothing_outside(page):
    text, parsed = page
    assert not re.search(r"https?:|@import|url\(|\bfetch\b|XMLHttp", text)
    references = [a[name] for _, a in parsed.tags for name in ("src", "href", "srcset", "action") if name in a]
    assert references
    assert all(reference.startswith("data:") for reference in references)
    (policy,) = (meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_what_is_missing_has_a_reason(tmp_path):
    source = picture(tmp_path / "a.png", (1, 2, 3))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    cells = {
        "none": Cell(None, {"q": 1}),
        "gone": Cell(tmp_path / "gone.png", {"q": 1}),
        "broken": Cell(tmp_path / "broken.png", {"q": float("nan")}),
        "fine": Cell(source, {"q": 1}),
    }
    items = [
        SheetItem("a", "", "x", tmp_path / "none.png", cells),
        SheetItem("b", "", "x", source, {"fine": cells["fine"]}),
    ]
    write_page(items, tmp_path / "page.html", "")
    parsed = read(tmp_path / "page.html")[1]
    reasons = parsed.texts_of("div", "none")
    named = ("none.png", "no reason", "gone.png", "broken.png", *["no result for this item"] * 3)
    assert len(reasons) == len(named)
    assert all(name in reason for name, reason in zip(named, reasons, strict=True))
    failed = [json.loads(article["data-failed"]) for article in parsed.all("article")]
    assert failed == [[True, True, True, False], [True, True, True, False]]


def test_scores_may_be_numbers_of_numpy(tmp_path):
    scores = {"a": np.float32(0.5), "b": np.int64(3), "c": np.float64("nan")}
    write_page([SheetItem("a", "", "x", encoded((8, 8)), {"one": Cell(None, scores)})], tmp_path / "page.html", "")
    assert json.loads(read(tmp_path / "page.html")[1].all("article")[0]["data-scores"]) == [[0.5, 3, None]]


def test_a_page_without_measures_or_types(tmp_path):
    source = picture(tmp_path / "a.png", (1, 2, 3))
    write_page([SheetItem("a", "", "x", source, {"one": Cell(source)})], tmp_path / "page.html", "")
    parsed = read(tmp_path / "page.html")[1]
    assert not parsed.all("select")
    assert "(no type) " in parsed.texts_of("label")


def test_items_without_a_key_of_their_own_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"1 key .*: a"):
        write_page([SheetItem("a", "", "", b"", {"one": Cell()})] * 2, tmp_path / "page.html", "")
    with pytest.raises(ValueError, match="at least one system"):
        write_page([], tmp_path / "page.html", "")
    assert not [*tmp_path.iterdir()]


def test_items_are_written_while_later_ones_are_read(tmp_path, monkeypatch):
    """Memory holds a few items only: what was written is in the file before the last item is read."""
    original, sizes = contact_page._content, []

    def content(*arguments):
        sizes.append((tmp_path / ".page.html.part").stat().st_size)
        return original(*arguments)

    monkeypatch.setattr(contact_page, "_content", content)
    items = [SheetItem(str(i), "", "x" * 10_000, encoded((8, 8)), {"one": Cell()}) for i in range(100)]
    write_page(items, tmp_path / "page.html", "")
    assert len(sizes) == 100
    # All but those that are read ahead, and those in buffers.
    assert max(sizes) > 60 * 10_000


def test_an_error_leaves_the_old_page(tmp_path, monkeypatch):
    def fail(item, *_):
        raise OSError(f"no memory for {item.key}")

    (tmp_path / "page.html").write_text("old")
    monkeypatch.setattr(contact_page, "_content", fail)
    with pytest.raises(OSError, match="no memory for a"):
        write_page([SheetItem("a", "", "", b"", {"one": Cell()})], tmp_path / "page.html", "")
    assert (tmp_path / "page.html").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
