"""Edits of image files: jobs, PNGs with settings, resumed runs, shards."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from tiny_editors import SIDE, picture, tiny_editor

from rewardedit_jax import Editor, Reward
from rewardedit_jax.data.images import ImageError
from rewardedit_jax.data.runs import Shard
from rewardedit_jax.editing.files import METADATA, EditJob, edit_to_files, made_from, make_edits, plan_edits
from rewardedit_jax.editing.requests import prepare_image

SETTINGS = {"steps": 2, "sampler": "ddim", "resolution": "native"}
SNOW = "make it snow"


@pytest.fixture(scope="module")
def editor():
    return tiny_editor(layout="released")


@pytest.fixture
def photos(tmp_path):
    """Three pictures, of which the last is wider; and a file that is no picture."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, width in enumerate((SIDE, SIDE, 2 * SIDE)):
        Image.fromarray(picture(i, SIDE, width)).save(folder / f"{'abc'[i]}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def write_list(folder, *entries):
    listing = folder / "edits.jsonl"
    listing.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries), "utf-8")
    return listing


def settings_of(path):
    with Image.open(path) as image:
        return json.loads(image.text[METADATA])


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


# Plans


def test_one_image(photos, tmp_path):
    image = photos / "a.png"
    for output, wanted in (("new.png", "new.png"), ("edited", "edited/a.png"), (tmp_path, "a.png")):
        (job,), _ = plan_edits(image, SNOW, Reward(), tmp_path / output, seed=3)
        assert job == EditJob(image, SNOW, Reward(), tmp_path / wanted, 3)


def test_folder(photos, tmp_path, caplog):
    for name in (".DS_Store", "._a.png"):
        (photos / name).write_bytes(bytes.fromhex("0005160700020000"))
    Image.fromarray(picture()).save(photos / "animated", "GIF")
    jobs, faults = plan_edits(photos, SNOW, None, tmp_path / "out", seed=3)
    assert faults == []
    assert "3 of 7 entries" in caplog.text
    assert [(job.image.name, job.output.name, job.seed) for job in jobs] == [
        ("a.png", "a.png", 3),
        ("animated", "animated.png", 4),
        ("b.png", "b.png", 5),
        ("c.png", "c.png", 6),
    ]


def test_list(photos, tmp_path):
    listing = write_list(
        photos,
        {"image": "a.png", "instruction": "add a star"},
        "",
        {"image": "b.png", "reward": [1, 2, 3]},
        {"image": "b.png", "feedback": ["x", "y", "z"], "output": "named.png"},
        {"image": "c.png", "reward": None},
    )
    jobs, _ = plan_edits(listing, SNOW, Reward(4, 4, 4), tmp_path, seed=0)
    assert [job.instruction for job in jobs] == ["add a star", SNOW, SNOW, SNOW]
    assert [job.reward for job in jobs] == [
        Reward(4, 4, 4),
        Reward(1, 2, 3),
        Reward(4, 4, 4, feedback=("x", "y", "z")),
        None,
    ]
    assert [job.output.name for job in jobs] == ["00000_a.png", "00001_b.png", "named.png", "00003_c.png"]
    assert [job.seed for job in jobs] == [0, 1, 2, 3]
    assert jobs[0].image == photos / "a.png"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"edits\.jsonl, line 2: not JSON"),
        ("3", r"edits\.jsonl, line 2: expected `object`, got `int`: 3"),
        ('{"instruction": "x"}', r"line 2: .*missing required field `image`"),
        ('{"image": "a.png", "reward": [5, 5]}', r"line 2: reward=\[5, 5\]: .*length 3"),
        ('{"image": "a.png", "reward": [5, 5, 9]}', r"line 2: reward\[2\]=9: .*<= 5"),
        ('{"image": "a.png", "feedback": "None"}', r"line 2: .*feedback"),
        ('{"image": "a.png", "instruction": ""}', r"line 2: instruction='': .*not blank"),
        ('{"image": "a.png", "instruction": " \\t"}', r"line 2: instruction=' \\t': .*not blank"),
        ('{"image": "a.png", "output": "b.jpg"}', r"b\.jpg.*\.png"),
        ('{"image": "b.png", "output": "00000_a.png"}', r"a\.png and .*b\.png .*00000_a\.png"),
        ('{"image": "b.png", "output": "x/../00000_a.png"}', r"a\.png and .*b\.png .*00000_a\.png"),
        ('{"image": "../b.png"}', r"line 2: '\.\./b\.png' .*--allow-outside"),
        ('{"image": "/b.png"}', r"line 2: '/b\.png' .*--allow-outside"),
        ('{"image": "b\\u0000.png"}', "line 2: .*zero byte"),
        ('{"image": "a.png", "output": "../esc.png"}', r"line 2: '\.\./esc\.png' .*--allow-outside"),
        ('{"image": "a.png", "output": "/esc.png"}', "line 2: .*--allow-outside"),
        (r'{"image": "a.png", "output": "..\\esc.png"}', "line 2: .*--allow-outside"),
        (r'{"image": "a.png", "output": "C:\\esc.png"}', "line 2: .*--allow-outside"),
        ('{"image": "a.png", "output": "link/esc.png"}', r"line 2: 'link/esc\.png' .*--allow-outside"),
        ('{"image": "a.png", "output": "e\\u0000.png"}', "line 2: .*zero byte"),
        ('{"image": "a.png", "output": "folder.png"}', r"folder\.png .*is a folder"),
        ('{"image": "a.png", "output": "file/a.png"}', r"file/a\.png .*Not a directory"),
        ('{"image": "a.png", "output": "."}', r"\.png"),
        (f'{{"image": "a.png", "output": "{"x" * 255}.png"}}', "too long"),
        ('{"image": "a.png", "output": "\\ud800.png"}', "line 2: .*lone surrogates"),
    ],
)
def test_a_bad_line_does_not_stop_the_others(photos, tmp_path, line, message):
    """It keeps its place: the outputs and seeds of the others are those of the repaired list."""
    out = tmp_path / "out"
    (out / "folder.png").mkdir(parents=True)
    (out / "file").touch()
    (out / "link").symlink_to(tmp_path)
    jobs, (fault,) = plan_edits(write_list(photos, {"image": "a.png"}, line, {"image": "c.png"}), SNOW, None, out, 0)
    assert re.search(message, fault)
    assert [(job.output.name, job.seed) for job in jobs] == [("00000_a.png", 0), ("00002_c.png", 2)]


def test_a_flag_allows_paths_that_lead_outside(photos, tmp_path):
    listing = write_list(photos, {"image": "../a.png", "output": "../x.png"}, {"image": "/b.png", "output": "/y.png"})
    jobs, faults = plan_edits(listing, SNOW, None, tmp_path / "out", 0, allow_outside=True)
    assert faults == []
    assert [str(job.image) for job in jobs] == [f"{photos}/../a.png", "/b.png"]
    assert [str(job.output) for job in jobs] == [f"{tmp_path}/out/../x.png", "/y.png"]


def test_lines_without_an_instruction_are_bad_where_there_is_no_default(photos, tmp_path):
    listing = write_list(photos, {"image": "a.png"}, {"image": "b.png", "instruction": SNOW})
    (job,), (fault,) = plan_edits(listing, None, None, tmp_path, 0)
    assert job.image.name == "b.png"
    assert re.search(r"line 1: a\.png .*--instruction", fault)


def test_plans_that_cannot_be(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no images in .*empty"):
        plan_edits(tmp_path / "empty", SNOW, None, tmp_path, seed=0)
    with pytest.raises(ValueError, match=r"edits\.jsonl is empty"):
        plan_edits(write_list(photos, ""), SNOW, None, tmp_path, seed=0)
    with pytest.raises(ValueError, match=r"(?s)edits\.jsonl: all lines .*line 1: .*line 2: "):
        plan_edits(write_list(photos, "{", "3"), SNOW, None, tmp_path, seed=0)
    for blank in (None, "", " "):
        with pytest.raises(ValueError, match=r"a\.png .*--instruction"):
            plan_edits(photos / "a.png", blank, None, tmp_path / "x.png", seed=0)
    with pytest.raises(ValueError, match=r"x\.jpg"):
        plan_edits(photos / "a.png", SNOW, None, tmp_path / "x.jpg", seed=0)
    with pytest.raises(ValueError, match=r"a\.png .*--output"):
        plan_edits(photos, SNOW, None, photos, seed=0)


def test_an_output_replaces_no_image(photos, tmp_path):
    """Neither the image of another edit, which would be taken for an output that exists."""
    listing = write_list(photos, {"image": "a.png", "output": "b.png"}, {"image": "b.png", "output": "new.png"})
    (job,), (fault,) = plan_edits(listing, SNOW, None, photos, seed=0)
    assert job.output.name == "new.png"
    assert re.search(r"b\.png of .*a\.png .*replace", fault)


def test_of_two_images_of_one_name_the_second_is_left_out(photos, tmp_path):
    Image.fromarray(picture()).save(photos / "b.jpg")
    jobs, (fault,) = plan_edits(photos, SNOW, None, tmp_path, seed=0)
    assert [job.image.name for job in jobs] == ["a.png", "b.jpg", "c.png"]
    assert re.search(r"b\.jpg and .*b\.png .*b\.png", fault)


# Runs


def test_pngs_carry_what_made_them(editor, photos, tmp_path):
    jobs, _ = plan_edits(photos / "a.png", SNOW, Reward(4, 3, 2), tmp_path / "x.png", seed=3)
    settings = {**SETTINGS, "reward_guidance": 0.0, "low_reward": Reward(0, 0, 0)}
    assert edit_to_files(editor, jobs, settings, batch_size=1) == []
    meta = settings_of(tmp_path / "x.png")
    assert meta.pop("image") == str(photos / "a.png")
    scores = {"following": 4.0, "preserving": 3.0, "quality": 2.0, "feedback": None}
    assert meta.pop("reward") == scores
    assert meta.pop("low_reward") == {"following": 0, "preserving": 0, "quality": 0, "feedback": None}
    assert meta == {"instruction": SNOW, "seed": 3, "reward_guidance": 0.0, **SETTINGS}
    again = editor.edit(photos / "a.png", SNOW, reward=Reward(**scores), seed=3, **SETTINGS)
    np.testing.assert_array_equal(pixels(tmp_path / "x.png"), np.asarray(again))


@pytest.mark.parametrize(("modules", "scores"), [({"layout": "released"}, [5, 5, 5]), ({}, None)])
def test_pngs_carry_what_the_model_chose(photos, tmp_path, modules, scores):
    jobs, _ = plan_edits(photos / "a.png", SNOW, "best", tmp_path / "x.png", seed=0)
    assert edit_to_files(tiny_editor(**modules), jobs, {**SETTINGS, "sampler": None}, batch_size=1) == []
    meta = settings_of(tmp_path / "x.png")
    assert meta["sampler"] == "euler_ancestral"
    asked = meta["reward"] and [meta["reward"][name] for name in ("following", "preserving", "quality")]
    assert asked == scores


def test_a_png_says_what_it_was_made_from(editor, photos, tmp_path):
    """A job may name its image, so that the same edit is the same file wherever it is made."""
    contents = []
    for folder in ("x", "y"):
        job = EditJob(photos / "a.png", SNOW, None, tmp_path / folder / "a.png", 0, "photo 1")
        assert make_edits(editor, [job], SETTINGS, batch_size=1) == {}
        assert made_from(job.output)["image"] == "photo 1"
        contents.append(job.output.read_bytes())
    assert contents[0] == contents[1]
    assert made_from(photos / "a.png") == {}
    (photos / "b.png").write_bytes(b"torn")
    with pytest.raises(ImageError, match=r"b\.png"):
        made_from(photos / "b.png")


def test_a_stopped_run_goes_on_with_the_same_seeds(editor, photos, tmp_path):
    jobs, _ = plan_edits(photos, SNOW, Reward(), tmp_path / "all", seed=3)
    edit_to_files(editor, jobs, SETTINGS, batch_size=1)
    (tmp_path / "rest").mkdir()
    (tmp_path / "rest" / "a.png").write_bytes(b"of before")
    edit_to_files(editor, plan_edits(photos, SNOW, Reward(), tmp_path / "rest", seed=3)[0], SETTINGS, batch_size=1)
    assert (tmp_path / "rest" / "a.png").read_bytes() == b"of before"
    for name in ("b.png", "c.png"):
        np.testing.assert_array_equal(pixels(tmp_path / "rest" / name), pixels(tmp_path / "all" / name))
    assert {path.name for path in (tmp_path / "rest").iterdir()} == {"a.png", "b.png", "c.png"}


def test_shards_make_the_edits_of_one_run(editor, photos, tmp_path):
    """Seeds and names do not depend on the shards."""
    jobs, _ = plan_edits(photos, SNOW, Reward(), tmp_path / "all", seed=3)
    edit_to_files(editor, jobs, SETTINGS, batch_size=1)
    for i in (1, 2):
        jobs, _ = plan_edits(photos, SNOW, Reward(), tmp_path / "shards", seed=3)
        edit_to_files(editor, Shard(i, 2).of(jobs), SETTINGS, batch_size=1)
    for name in ("a.png", "b.png", "c.png"):
        np.testing.assert_array_equal(pixels(tmp_path / "shards" / name), pixels(tmp_path / "all" / name))


def test_an_edit_that_is_cut_off_is_made_again(editor, photos, tmp_path, monkeypatch):
    """A run that stops while it writes leaves no output that a later run takes for complete."""
    jobs, _ = plan_edits(photos / "a.png", SNOW, None, tmp_path / "out" / "a.png", seed=3)
    monkeypatch.setattr(Image.Image, "save", half_written)
    with pytest.raises(KeyboardInterrupt):
        edit_to_files(editor, jobs, SETTINGS, batch_size=1)
    monkeypatch.undo()
    assert list((tmp_path / "out").iterdir()) == []
    edit_to_files(editor, jobs, SETTINGS, batch_size=1)
    assert pixels(tmp_path / "out" / "a.png").shape == (SIDE, SIDE, 3)


def half_written(image, path, *_, **__):
    path.write_bytes(b"half")
    raise KeyboardInterrupt


def test_images_that_cannot_be_read_do_not_stop_the_others(editor, photos, tmp_path):
    (photos / "b.png").write_bytes(b"torn")
    Image.new("RGB", (1, 20_000)).save(photos / "d.png")  # its longer side would be 640,000 pixels
    jobs, _ = plan_edits(photos, SNOW, Reward(), tmp_path / "out", seed=3)
    torn, narrow = edit_to_files(editor, jobs, SETTINGS, batch_size=1)
    assert re.search(r"b\.png cannot be read", torn)
    assert re.search(r"d\.png: 1×20000 .*4096", narrow)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    assert settings_of(tmp_path / "out" / "c.png")["seed"] == 5


def test_sides_are_bounded_where_images_keep_their_size():
    with pytest.raises(ImageError, match=r"4160×64: .*4096 pixels"):
        prepare_image(Image.new("RGB", (4160, 64)), None, 64)
    assert prepare_image(Image.new("RGB", (4096, 64)), None, 64).size == (4096, 64)


def test_each_size_is_compiled_once_or_twice(editor, tmp_path, monkeypatch):
    """Sizes lie mixed in the folder; only batches of one size, and few kinds of them, reach the editor."""
    batches = []

    def note(self, images, instructions, **settings):
        assert settings["resolution"] is None
        assert len({image.size for image in images}) == 1
        batches.append((images[0].width, len(images)))
        return images

    monkeypatch.setattr(Editor, "edit", note)
    folder = tmp_path / "in"
    folder.mkdir()
    widths = [4, 8, 4, 4, 12, 8, 4, 4, 8]
    for i, width in enumerate(widths):
        Image.fromarray(picture(i, 4, width)).save(folder / f"{i}.png")
    jobs, _ = plan_edits(folder, SNOW, None, tmp_path / "out", seed=0)
    edit_to_files(editor, jobs, {**SETTINGS, "resolution": None}, batch_size=2)
    # 4: two full batches and a filled-up one; 8: one of each; 12: never full, so not filled up.
    assert sorted(batches) == [(4, 2)] * 3 + [(8, 2)] * 2 + [(12, 1)]
    for i, width in enumerate(widths):
        np.testing.assert_array_equal(pixels(tmp_path / "out" / f"{i}.png"), picture(i, 4, width))
