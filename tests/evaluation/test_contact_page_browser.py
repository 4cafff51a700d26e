"""The web page of a contact sheet in Chromium: filters, sorting, means and the enlarged picture do what they say."""

import html
import json
import math
import re
import shutil
import subprocess
from urllib.parse import urlencode

import numpy as np
import pytest
from made_sheets import MEASURES, SYSTEMS, made_items
from PIL import Image
from test_contact_page import Page

from rewardedit_jax.evaluation.contact_page import write_page
from rewardedit_jax.evaluation.contact_sheets import score_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian's package: chromium)")

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    # No request leaves the machine.
    *("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return made_items(tmp_path_factory.mktemp("pictures"), 40)


@pytest.fixture(scope="module")
def page(items, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "page.html"
    write_page(items, file, "Two editors", side=128)
    return file


@pytest.fixture
def browse(tmp_path):
    """Opens a page with a state in its address; returns what Chromium prints."""

    def browse(file, state="", *flags):
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [CHROMIUM, *FLAGS, profile, *flags, f"{file.as_uri()}#{state}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    return browse


@pytest.fixture
def run(page, browse, tmp_path):
    """The JSON value of an expression, evaluated after the scripts of the page."""

    def run(script, state=""):
        script = f"<script>document.body.dataset.found = JSON.stringify((() => {{ {script} }})())</script></body>"
        file = tmp_path / "with_script.html"
        file.write_text(page.read_text("utf-8").replace("</body>", script), "utf-8")
        body = next(attributes for tag, attributes in Page(browse(file, state, "--dump-dom")).tags if tag == "body")
        return json.loads(body["data-found"])

    return run


def shown(dom):
    return [article["data-key"] for article in Page(dom).all("article") if "hidden" not in article]


def score(item, system, measure):
    return score_of(item.cells[system], measure)


def keys(items):
    return [item.key for item in items]


def is_failed(item):
    return any(score(item, system, measure) is None for system in SYSTEMS for measure in MEASURES)


def test_the_address_filters(page, items, browse):
    expected = [item for item in items if item.edit_type == "Local" and is_failed(item)]
    assert 0 < len(expected) < len(items)
    dom = browse(page, "type=Local&failed=1", "--dump-dom")
    assert shown(dom) == keys(expected)
    assert f"showing {len(expected)} of 40" in dom


def order(items, value, sign):
    """Items without a value last, equal ones as listed."""
    return sorted(items, key=lambda item: (value(item) is None, sign * (value(item) or 0)))


def difference(item):
    a, b = (score(item, system, "quality") for system in SYSTEMS)
    return None if None in (a, b) else a - b


# State of the address → the keys that are shown, in their order.
STATES = (
    ({}, lambda items: items),
    ({"type": ["Local", "Style"]}, lambda items: [i for i in items if i.edit_type != "Global"]),
    ({"type": "none of these"}, lambda items: items),
    ({"text": "QUOTES  more"}, lambda items: [i for i in items if '"quotes" & ' in i.instruction]),
    ({"text": "海滩"}, lambda items: [i for i in items if "海滩" in i.instruction]),
    ({"text": "item 07"}, lambda items: [i for i in items if i.key == "item 07"]),
    (
        {"text": "<script>", "failed": 1},
        lambda items: [i for i in items if "<script>" in i.instruction and is_failed(i)],
    ),
    ({"text": "nowhere"}, lambda items: []),
    ({"min": 3}, lambda items: [i for i in items if (score(i, "base", "following") or 0) >= 3]),
    (
        {"measure": "quality", "system": "reward", "min": 1.5, "max": 3},
        lambda items: [i for i in items if 1.5 <= (score(i, "reward", "quality") or 0) <= 3],
    ),
    ({"sort": "following"}, lambda items: order(items, lambda i: score(i, "base", "following"), -1)),
    (
        {"sort": "quality", "of": "reward", "lowest": 1},
        lambda items: order(items, lambda i: score(i, "reward", "quality"), 1),
    ),
    ({"sort": "quality", "of": "base", "minus": "reward"}, lambda items: order(items, difference, -1)),
    ({"sort": "no measure", "of": "no system", "min": "x"}, lambda items: items),
)


def test_every_state(items, run):
    addresses = [urlencode(state, doseq=True) for state, _ in STATES]
    found = run(f"""return {json.dumps(addresses)}.map((address) => {{
      history.replaceState(null, "", "#" + address);
      readAddress(); apply();
      const keys = [...document.querySelectorAll("article:not([hidden])")].map((node) => node.dataset.key);
      return [keys, document.getElementById("count").textContent];
    }})""")
    for (state, expected), (names, count) in zip(STATES, found, strict=True):
        assert names == keys(expected(items)), state
        assert count.startswith(f"showing {len(names)} of 40"), state


def test_the_form_writes_the_address(run):
    address, back, rest = run("""
      form.elements.failed.click();
      document.querySelector("[name=type][value=Style]").click();
      form.elements.text.value = "海滩 & more";
      form.elements.text.dispatchEvent(new Event("input", { bubbles: true }));
      const address = location.hash, values = [...new FormData(form)];
      form.reset(); writeAddress();
      const rest = location.hash;
      history.replaceState(null, "", address); readAddress();
      return [address, JSON.stringify(values) === JSON.stringify([...new FormData(form)]), rest];
    """)
    assert address == "#type=Style&text=%E6%B5%B7%E6%BB%A9+%26+more&failed=1"
    assert back
    assert rest == ""


def test_means_are_of_the_shown_items(items, run):
    chosen = [item for item in items if item.edit_type == "Global"]
    cells = """return [[...document.querySelectorAll("#means tbody tr")].map((row) =>
      [...row.cells].map((cell) => cell.textContent)), document.getElementById("denominator").textContent]"""
    rows, denominator = run(cells, "type=Global")
    for system, row in zip(SYSTEMS, rows, strict=True):
        assert row[0] == system
        for measure, cell in zip(MEASURES, row[1:-1], strict=True):
            scores = [value for item in chosen if (value := score(item, system, measure)) is not None]
            mean, count = re.fullmatch(r"([\d.]+)of (\d+)", cell).groups()
            assert math.isclose(float(mean), np.mean(scores), rel_tol=1e-3)
            assert int(count) == len(scores)
        failed = sum(any(score(item, system, measure) is None for measure in MEASURES) for item in chosen)
        assert row[-1] == f"{failed} of {len(chosen)}"
    assert f"{len(chosen)} shown items" in denominator


def test_a_picture_is_enlarged_by_mouse_and_keys(items, run):
    pressed = """
      const shown = () => [large.open, large.querySelector(".instruction").textContent,
        [...large.querySelectorAll("figcaption")].map((node) => node.textContent)];
      const press = (key) => large.dispatchEvent(new KeyboardEvent("keydown", { key }));
      const found = [large.open];
      main.querySelectorAll("article:not([hidden]) button")[1].click();
      found.push(shown());
      press("ArrowRight"); found.push(shown());
      press("ArrowLeft"); press("ArrowLeft"); found.push(shown());
      large.close(); found.push(large.open);
      return found;
    """
    local = [item for item in items if item.edit_type == "Local"]
    # The first item has no picture of "base": its pictures are the source and that of "reward".
    first, second = local[0].instruction, local[1].instruction
    assert run(pressed, "type=Local") == [
        False,
        [True, first, ["source", "reward"]],
        [True, second, ["source"]],
        [True, first, ["source"]],
        False,
    ]


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_page_is_drawn(page, browse, tmp_path, width, height):
    file = tmp_path / "screenshot.png"
    browse(page, "type=Local", f"--window-size={width},{height}", f"--screenshot={file}")
    with Image.open(file) as screenshot:
        assert screenshot.size == (width, height)
        colors = screenshot.convert("RGB").getcolors(width * height)
    # Of the pictures, which are of one color each: a source of the first rows.
    made = {color for count, color in colors if count > 32 * 24}
    assert made & {(40 * i, 90, 200 - 30 * i) for i in range(5)} or (10, 90, 160) in made
    # Shades of letters.
    assert len(colors) > 50


@pytest.mark.parametrize(("width", "is_open"), [(1280, True), (390, False)])
def test_the_page_fits_its_window(page, browse, tmp_path, width, is_open):
    """In a frame, as Chromium's windows are at least 500 pixels wide."""
    frame = f'<iframe width="{width}" height="800" srcdoc="{html.escape(page.read_text("utf-8"))}"></iframe>'
    script = """<script>onload = () => {
      const inside = document.querySelector("iframe").contentDocument, root = inside.documentElement;
      document.title = JSON.stringify([root.clientWidth, root.scrollWidth, inside.querySelector("details").open]);
    }</script>"""
    (tmp_path / "frame.html").write_text(f"<!doctype html><title></title>{frame}{script}", "utf-8")
    title = re.search(r"<title>(.*?)</title>", browse(tmp_path / "frame.html", "", "--dump-dom"))[1]
    inner, content, found = json.loads(title)
    assert inner == content <= width
    assert found is is_open
