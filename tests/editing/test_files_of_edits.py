"""Edits of image files: jobs, PNGs with settings, resumed runs, shards."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from tiny_editors import SIDE, picture, tiny_editor

from rewardedit_jax import Editor, Reward
from rewardedit_jax.data.runs import Shard
from rewardedit_jax.editing.files import METADATA, EditJob, edit_to_files, plan_edits

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
        (job,) = plan_edits(image, SNOW, Reward(), tmp_path / output, seed=3)
        assert job == EditJob(image, SNOW, Reward(), tmp_path / wanted, 3)


def test_folder(photos, tmp_path):
    jobs = plan_edits(photos, SNOW, None, tmp_path / "out", seed=3)
    assert [(job.image.name, job.output.name, job.seed) for job in jobs] == [
        ("a.png", "a.png", 3),
        ("b.png", "b.png", 4),
        ("c.png", "c.png", 5),
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
    jobs = plan_edits(listing, SNOW, Reward(4, 4, 4), tmp_path, seed=0)
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
        ('{"image": "a.png", "instruction": ""}', r"a\.png has no instruction"),
        ('{"image": "a.png", "output": "b.jpg"}', r"b\.jpg.*\.png"),
        ('{"image": "b.png", "output": "00000_a.png"}', r"a\.png and .*b\.png .*00000_a\.png"),
    ],
)
def test_lines_that_are_no_edits(photos, tmp_path, line, message):
    listing = write_list(photos, {"image": "a.png"}, line)
    with pytest.raises(ValueError, match=message):
        plan_edits(listing, SNOW, Reward(), tmp_path, seed=0)


def test_plans_that_cannot_be(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty.*\.png"):
        plan_edits(tmp_path / "empty", SNOW, None, tmp_path, seed=0)
    with pytest.raises(ValueError, match=r"edits\.jsonl is empty"):
        plan_edits(write_list(photos, ""), SNOW, None, tmp_path, seed=0)
    with pytest.raises(ValueError, match=r"a\.png .*--instruction"):
        plan_edits(photos / "a.png", None, None, tmp_path / "x.png", seed=0)
    with pytest.raises(ValueError, match=r"x\.jpg"):
        plan_edits(photos / "a.png", SNOW, None, tmp_path / "x.jpg", seed=0)
    with pytest.raises(ValueError, match=r"a\.png .*--output"):
        plan_edits(photos, SNOW, None, photos, seed=0)
    Image.fromarray(picture()).save(photos / "b.jpg")
    with pytest.raises(ValueError, match=r"b\.jpg and .*b\.png .*b\.png"):
        plan_edits(photos, SNOW, None, tmp_path, seed=0)


# Runs


def test_pngs_carry_what_made_them(editor, photos, tmp_path):
    jobs = plan_edits(photos / "a.png", SNOW, Reward(4, 3, 2), tmp_path / "x.png", seed=3)
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
    jobs = plan_edits(photos / "a.png", SNOW, "best", tmp_path / "x.png", seed=0)
    assert edit_to_files(tiny_editor(**modules), jobs, {**SETTINGS, "sampler": None}, batch_size=1) == []
    meta = settings_of(tmp_path / "x.png")
    assert meta["sampler"] == "euler_ancestral"
    asked = meta["reward"] and [meta["reward"][name] for name in ("following", "preserving", "quality")]
    assert asked == scores


def test_a_stopped_run_goes_on_with_the_same_seeds(editor, photos, tmp_path):
    jobs = plan_edits(photos, SNOW, Reward(), tmp_path / "all", seed=3)
    edit_to_files(editor, jobs, SETTINGS, batch_size=1)
    (tmp_path / "rest").mkdir()
    (tmp_path / "rest" / "a.png").write_bytes(b"of before")
    edit_to_files(editor, plan_edits(photos, SNOW, Reward(), tmp_path / "rest", seed=3), SETTINGS, batch_size=1)
    assert (tmp_path / "rest" / "a.png").read_bytes() == b"of before"
    for name in ("b.png", "c.png"):
        np.testing.assert_array_equal(pixels(tmp_path / "rest" / name), pixels(tmp_path / "all" / name))
    assert {path.name for path in (tmp_path / "rest").iterdir()} == {"a.png", "b.png", "c.png"}


def test_shards_make_the_edits_of_one_run(editor, photos, tmp_path):
    """Seeds and names do not depend on the shards."""
    jobs = plan_edits(photos, SNOW, Reward(), tmp_path / "all", seed=3)
    edit_to_files(editor, jobs, SETTINGS, batch_size=1)
    for i in (1, 2):
        jobs = plan_edits(photos, SNOW, Reward(), tmp_path / "shards", seed=3)
        edit_to_files(editor, Shard(i, 2).of(jobs), SETTINGS, batch_size=1)
    for name in ("a.png", "b.png", "c.png"):
        np.testing.assert_array_equal(pixels(tmp_path / "shards" / name), pixels(tmp_path / "all" / name))


def test_an_edit_that_is_cut_off_is_made_again(editor, photos, tmp_path, monkeypatch):
    """A run that stops while it writes leaves no output that a later run takes for complete."""
    jobs = plan_edits(photos / "a.png", SNOW, None, tmp_path / "out" / "a.png", seed=3)
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
    faults = edit_to_files(editor, plan_edits(photos, SNOW, Reward(), tmp_path / "out", seed=3), SETTINGS, batch_size=1)
    assert len(faults) == 1
    assert re.search(r"b\.png", faults[0])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    assert settings_of(tmp_path / "out" / "c.png")["seed"] == 5


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
    jobs = plan_edits(folder, SNOW, None, tmp_path / "out", seed=0)
    edit_to_files(editor, jobs, {**SETTINGS, "resolution": None}, batch_size=2)
    # 4: two full batches and a filled-up one; 8: one of each; 12: never full, so not filled up.
    assert sorted(batches) == [(4, 2)] * 3 + [(8, 2)] * 2 + [(12, 1)]
    for i, width in enumerate(widths):
        np.testing.assert_array_equal(pixels(tmp_path / "out" / f"{i}.png"), picture(i, 4, width))
