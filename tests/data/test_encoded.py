"""Edits as they are stored: the bytes of the files, the keys, the digests, and the decoded record that follows."""

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from rewardedit_jax.data.encoded import EncodedEdit, StoredEdits
from rewardedit_jax.data.images import ImageError
from rewardedit_jax.data.instruct_pix2pix import InstructPix2PixFolder, InstructPix2PixParquet, RewardEditFolder
from rewardedit_jax.data.triplets import TripletFile


def picture(value: int, suffix: str = "png") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 20, 30)).save(file, suffix)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Two folders of InstructPix2Pix with one pair each."""
    for i, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prompt.json").write_text(json.dumps({"edit": f"edit {i}"}))
        for j in (0, 1):
            (tmp_path / name / f"7_{j}.jpg").write_bytes(picture(100 * i + j, "jpeg"))
    (tmp_path / "seeds.json").write_text(json.dumps([["a", ["7"]], ["b", ["7"]]]))
    reward = [{"Score": score, "Negative Prompt": f"text {score}"} for score in (1, 2, 3)]
    (tmp_path / "rewards.json").write_text(json.dumps({"b": reward}))
    return tmp_path


def triplets(folder) -> TripletFile:
    line = {"input": "a/7_0.jpg", "output": "a/7_1.jpg", "instruction": "edit 0", "task": "colour"}
    (folder / "list.jsonl").write_text(json.dumps(line))
    return TripletFile(folder / "list.jsonl")


def parquet(folder) -> InstructPix2PixParquet:
    import pyarrow
    from pyarrow import parquet

    cells = [{"bytes": (folder / "a" / f"7_{j}.jpg").read_bytes(), "path": None} for j in (0, 1)]
    table = {"original_image": cells[:1], "edit_prompt": ["edit 0"], "edited_image": cells[1:]}
    parquet.write_table(pyarrow.table(table), folder / "rows.parquet")
    return InstructPix2PixParquet(folder / "rows.parquet")


@pytest.mark.parametrize("open_source", [InstructPix2PixFolder, triplets, parquet])
def test_images_are_the_bytes_of_the_files(folder, open_source):
    source = open_source(folder)
    edit, record = source.encoded(0), source[0]
    assert isinstance(source, StoredEdits)
    assert (edit.source, edit.edited) == tuple((folder / "a" / f"7_{j}.jpg").read_bytes() for j in (0, 1))
    assert source.digests(0) == tuple(hashlib.sha256(image).hexdigest() for image in (edit.source, edit.edited))
    assert source.keys()[0] == edit.key == record.key
    assert len(source.keys()) == len(source)
    assert record.instruction == edit.instruction == "edit 0"
    assert record.source.shape == record.edited.shape == (4, 6, 3)


def test_a_reward_is_part_of_the_stored_edit(folder):
    source = RewardEditFolder(folder, folder / "rewards.json")
    assert source.keys() == ["b"]
    assert source.encoded(0).scores == (1.0, 2.0, 3.0)
    assert source[0].feedback == ("text 1", "text 2", "text 3")
    np.testing.assert_array_equal(source[0].scores, np.float32([1, 2, 3]))


def test_the_type_of_an_edit_is_kept(folder):
    assert triplets(folder).encoded(0).extra == {"task": "colour"}


def test_an_unreadable_image_is_named():
    edit = EncodedEdit("k", "make it snow", picture(1), b"not an image", names=("in.png", "out.png"))
    with pytest.raises(ImageError, match=r"out\.png cannot be read"):
        edit.decoded()


def test_identities_are_digests_and_instructions(folder):
    """An edit that cannot be read has its error in place of them."""
    source = InstructPix2PixFolder(folder)
    (folder / "a" / "7_1.jpg").unlink()
    broken, good = source.identities([0, 1])
    assert isinstance(broken, ImageError)
    assert "7_1.jpg" in str(broken)
    assert good == (*source.digests(1), "edit 1")
