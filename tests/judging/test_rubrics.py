"""Rubrics and images as they are sent."""

import base64
import hashlib
import io
import shutil

import pytest
from PIL import Image

from rewardedit_jax.data.encoded import EncodedEdit
from rewardedit_jax.data.images import ImageError
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.judging.images import ImageSettings
from rewardedit_jax.judging.rubrics import SHIPPED, read_rubrics
from rewardedit_jax.reward import PERSPECTIVES


def test_shipped_rubrics_ask_for_what_the_reader_reads():
    rubrics = read_rubrics()
    assert tuple(rubrics) == PERSPECTIVES
    for rubric in rubrics.values():
        asked = rubric.about("make {it} snow")
        assert "make {it} snow" in asked
        assert '{"score": 0, "feedback": "..."}' in asked
        assert '"None"' in asked
        assert all(f"\n{score}: " in asked for score in range(6))


def test_the_digest_is_that_of_the_file(tmp_path):
    folder = shutil.copytree(SHIPPED, tmp_path / "mine")
    before = read_rubrics(folder)
    assert before == read_rubrics()
    assert hashlib.sha256((folder / "quality.txt").read_bytes()).hexdigest().startswith(before["quality"].digest)
    (folder / "quality.txt").write_text("Is it good?")
    after = read_rubrics(folder)
    assert after["quality"].digest != before["quality"].digest
    assert after["following"] == before["following"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("quality.txt", None), ("quality.txt", " \n"), ("following.txt", "no place"), ("preserving.txt", b"\xff")],
)
def test_a_bad_rubric_is_named(tmp_path, name, text):
    folder = shutil.copytree(SHIPPED, tmp_path / "mine")
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadRecords, match=name):
        read_rubrics(folder)


def png(width, height):
    file = io.BytesIO()
    Image.effect_noise((width, height), 50).convert("RGB").save(file, "png")
    return file.getvalue()


def sent(url):
    kind, _, data = url.removeprefix("data:image/").partition(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(
    ("settings", "name", "size"),
    [
        (ImageSettings(), "jpeg 512px q95", (512, 256)),
        (ImageSettings("png", 100), "png 100px", (100, 50)),
        (ImageSettings("jpeg", 2000, 50), "jpeg 2000px q50", (1000, 500)),  # not enlarged
    ],
)
def test_images_are_sent_as_the_settings_say(settings, name, size):
    assert settings.name == name
    for url in settings.data_urls(EncodedEdit("k", "i", png(1000, 500), png(1000, 500))):
        kind, image = sent(url)
        assert (kind, image.format.lower(), image.size) == (settings.format, settings.format, size)


def test_unreadable_images_and_settings():
    with pytest.raises(ImageError, match=r"b\.png"):
        ImageSettings().data_urls(EncodedEdit("k", "i", png(8, 8), b"x", names=("a.png", "b.png")))
    with pytest.raises(ValueError, match="quality=0"):
        ImageSettings(quality=0)
