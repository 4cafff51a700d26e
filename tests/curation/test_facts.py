"""Facts of images: what counts as the same picture and as the same request."""

import json

import numpy as np
import pytest
from made_edits import edited, encoded, scene
from PIL import Image

from rewardedit_jax.curation.arguments import NEAR, UNCHANGED
from rewardedit_jax.curation.facts import cell_difference, facts_of, normalized, perceptual_hash
from rewardedit_jax.data.encoded import EncodedEdit, StoredEdits
from rewardedit_jax.data.images import decode_image


class Stored(StoredEdits):
    def __init__(self, *edits):
        self.edits = edits

    def __len__(self):
        return len(self.edits)

    def keys(self):
        return [edit.key for edit in self.edits]

    def encoded(self, index):
        return self.edits[index]


def edit(source, result, instruction="paste", **more):
    return EncodedEdit("k", instruction, source, result, **more)


def facts(*arguments, **more):
    return facts_of(Stored(edit(*arguments, **more)), 0)


def bits(a, b):
    return (int(a, 16) ^ int(b, 16)).bit_count()


COPIES = [
    lambda picture: encoded(picture, "jpeg", quality=75),
    lambda picture: encoded(picture, "jpeg", quality=50),
    lambda picture: encoded(picture, "webp", quality=80),
    lambda picture: encoded(picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)),
]


@pytest.mark.parametrize("copy", COPIES[::3], ids=["jpeg75", "half"])
def test_copies_are_near_and_unchanged(copy):
    for seed in range(10):
        picture = scene(seed, 256)
        again = np.asarray(decode_image(copy(picture), ""))
        assert bits(*map(perceptual_hash, (np.asarray(picture), again))) <= NEAR
        assert cell_difference(np.asarray(picture), again) < UNCHANGED


@pytest.mark.parametrize("copy", COPIES, ids=["jpeg75", "jpeg50", "webp80", "half"])
def test_copies_of_published_images_are_near_and_published_edits_are_not(shared_data, copy):
    folder = shared_data / "aurora"
    triplets = json.loads((folder / "test.json").read_text())[:112:8]
    for triplet in triplets:
        source, result = (Image.open(folder / triplet[name]).convert("RGB") for name in ("input", "output"))
        before, again, after = map(np.asarray, (source, decode_image(copy(source), ""), result))
        hashes = [perceptual_hash(image) for image in (before, again, after)]
        assert bits(hashes[0], hashes[1]) <= NEAR < bits(hashes[0], hashes[2])
        assert cell_difference(before, again) < UNCHANGED < cell_difference(before, after)


def test_a_small_edit_is_a_change():
    picture = scene(0, 512)
    changed = picture.copy()
    changed.paste((255, 0, 0), (100, 100, 120, 120))  # 0.15 % of the pixels
    assert cell_difference(*map(np.asarray, (picture, changed))) > 2 * UNCHANGED
    assert cell_difference(*map(np.asarray, (picture, picture))) == 0


def test_equal_files_and_requests_have_equal_digests():
    a, b = (encoded(edited(scene(0), i)) for i in range(2))
    one, spelled, other = facts(a, b, "Make it  red."), facts(a, b, "make it red"), facts(b, a, "Make it  red.")
    assert (one.request, one.digests) == (spelled.request, spelled.digests)
    # A scorer reads the instruction as it is.
    assert one.content != spelled.content
    assert len({one.content, other.content}) == 2
    assert one.digests == other.digests[::-1]


@pytest.mark.parametrize(
    ("a", "b"), [("Make it red.", " make  it\nRED"), ("ｍake it!", "Make it"), ("Straße", "STRASSE")]
)
def test_instructions_that_ask_for_the_same(a, b):
    assert normalized(a) == normalized(b) != normalized("make it blue")


def test_fields_with_one_value_are_kept():
    picture = encoded(scene(0))
    found = facts(picture, picture, extra={"type": "add", "turn": 2, "list": [1], "long": "x" * 1000, "none": None})
    assert found.extra == {"type": "add", "turn": 2}
    assert found.scores is None
