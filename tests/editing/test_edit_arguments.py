"""Arguments of `Editor`: wrong types and ranges, images as arrays, and edits that are not finite."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_editors import GRID, SIDE, picture, tiny_editor

from rewardedit_jax import Editor, Reward
from rewardedit_jax.data.images import ImageError
from rewardedit_jax.data.runs import Failed, NonFiniteResults
from rewardedit_jax.editing import editor as editor_module
from rewardedit_jax.editing.files import edit_to_files, plan_edits
from rewardedit_jax.editing.requests import make_requests

BLUE = "make it blue"
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def editor():
    return tiny_editor(layout="released")


@pytest.fixture
def without_networks(monkeypatch):
    """The networks return grey pictures; the result is the inputs of each call. NaN where the source is black."""
    calls = []

    def edit_batch(base, params, inputs, *_):
        calls.append(inputs)
        is_black = (np.asarray(inputs.source) == -1).all((1, 2, 3))
        return np.where(is_black[:, None, None, None], np.float32(NAN), np.full_like(inputs.source, 0.5))

    monkeypatch.setattr(editor_module, "edit_batch", edit_batch)
    return calls


WRONG = [
    ("steps", "3"),
    ("steps", None),
    ("steps", 2.0),
    ("steps", True),
    ("steps", 0),
    ("steps", -3),
    ("text_guidance", None),
    ("text_guidance", "7.5"),
    ("text_guidance", NAN),
    ("text_guidance", True),
    ("image_guidance", INF),
    ("image_guidance", 1e39),
    ("image_guidance", [1.5]),
    ("reward_guidance", NAN),
    ("reward_guidance", "0"),
    ("seed", None),
    ("seed", "1"),
    ("seed", 1.5),
    ("seed", -1),
    ("seed", 2**32),
    ("seed", [None]),
    ("seed", [-1]),
    ("seed", np.array([0.5])),
    ("batch_size", 2.5),
    ("batch_size", None),
    ("batch_size", 0),
    ("resolution", "512"),
    ("resolution", 0),
    ("resolution", 16.0),
    ("resolution", True),
    ("tile", "512"),
    ("tile", 16.0),
    ("tile", SIDE - 4),  # too small to overlap
    ("tile", SIDE + 2),  # not a multiple of 4
    ("instruction", None),
    ("instruction", []),
    ("instruction", b"make it blue"),
    ("instruction", ""),
    ("instruction", "\ud800"),
    ("instruction", 5),
    ("image", []),
    ("image", np.zeros((0, SIDE, SIDE, 3), np.uint8)),
    ("reward", 5),
    ("reward", (5, 5, 5)),
    ("reward", "worst"),
    ("reward", np.ones(3)),
    ("reward", [Reward(), "5"]),
    ("low_reward", 0),
    ("low_reward", "best"),
    ("low_reward", [Reward()]),
    ("sampler", 5),
    ("sampler", ""),
    ("sampler", ["ddim"]),
    ("output", "numpy"),
    ("output", None),
    ("output", np.ones(2)),
    ("latents", "noise"),
    ("latents", np.full((1, GRID, GRID, 4), NAN)),
    ("latents", np.full((1, GRID, GRID, 4), True)),
    ("noise", np.full((2, 1, GRID, GRID, 4), INF)),
    ("noise", [[1], [2, 3]]),
]


@pytest.mark.usefixtures("unchecked_annotations", "without_networks")
@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}={str(value)[:20]!r}" for name, value in WRONG])
def test_an_error_names_the_argument(editor, name, value):
    arguments = {"image": picture(), "instruction": BLUE, "resolution": None, "steps": 2, name: value}
    with pytest.raises(ValueError, match=name):
        editor.edit(**arguments)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("image", [None, 5, b"", np.zeros((SIDE, SIDE, 3)), Image.new("RGB", (0, 0)), "a\0b", {}])
def test_values_that_are_no_image(editor, image):
    with pytest.raises(ImageError, match="image"):
        editor.edit(image, BLUE, resolution=None)
    with pytest.raises(ImageError, match=r"^image 1: "):
        editor.edit([picture(), image], BLUE, resolution=None)


@pytest.mark.usefixtures("without_networks")
@pytest.mark.parametrize("of", [np.array, jnp.array])
def test_scalars_of_numpy_and_jax_are_numbers(editor, of):
    asked = {"steps": of(2), "batch_size": of(1), "seed": of(3), "resolution": of(SIDE), "text_guidance": of(2.0)}
    assert editor.edit(picture(), BLUE, **asked).size == (SIDE, SIDE)


def test_seeds_come_as_arrays(editor, without_networks):
    for seeds in ([3, 5], np.array([3, 5]), jnp.array([3, 5])):
        editor.edit([picture()] * 2, BLUE, resolution=None, seed=seeds, steps=2)
    first, *others = without_networks
    for other in others:
        np.testing.assert_array_equal(other.latents, first.latents)


def test_the_largest_seed_counts_for_all_edits(editor, without_networks):
    editor.edit(picture(), BLUE, resolution=None, seed=2**32 - 1, steps=2)
    with pytest.raises(ValueError, match=f"seed={2**32 - 1}"):
        editor.edit([picture()] * 2, BLUE, resolution=None, seed=2**32 - 1, steps=2)


@pytest.mark.parametrize("of", [np.asarray, jnp.asarray])
def test_a_batch_of_arrays_goes_in_pairs_with_instructions(editor, without_networks, of):
    batch, texts = np.stack([picture(0), picture(1)]), [BLUE, "make it red"]
    edits = editor.edit(of(batch), texts, resolution=None, steps=2)
    assert isinstance(edits, list)
    assert len(edits) == 2
    editor.edit(list(batch), texts, resolution=None, steps=2)
    arrays, listed = without_networks
    np.testing.assert_array_equal(arrays.source, listed.source)
    assert isinstance(editor.edit(of(batch[:1]), BLUE, resolution=None, steps=2), list)
    assert isinstance(editor.edit(of(batch[0]), BLUE, resolution=None, steps=2), Image.Image)
    with pytest.raises(ValueError, match="2 images for 3 edits"):
        editor.edit(of(batch), [BLUE] * 3, resolution=None)


def test_arrays_of_grey_and_alpha_are_taken_as_pil_takes_them(editor):
    def source(image):
        (request,) = make_requests(image, BLUE, None, lambda one: editor.prepare(one, None))
        return request.source

    grey, clear = picture()[..., 0], np.dstack([picture(), np.full((SIDE, SIDE), 0, np.uint8)])
    np.testing.assert_array_equal(source(grey), np.dstack([grey] * 3))
    assert (source(jnp.asarray(clear)) == 255).all()


# Edits that are not finite

BLACK = np.zeros((SIDE, SIDE, 3), np.uint8)


@pytest.mark.usefixtures("without_networks")
def test_an_edit_that_is_not_finite_is_an_error_with_a_remedy(editor):
    with pytest.raises(NonFiniteResults, match="check the model's weights"):
        editor.edit(BLACK, BLUE, resolution=None, steps=2)
    half = Editor(editor.base.__class__(**{**vars(editor.base), "unet": editor.base.unet.clone(dtype="float16")}), {})
    with pytest.raises(NonFiniteResults, match=r'edits 1 of 3: .*float16: .*dtype="float32"') as caught:
        half.edit([picture(0), BLACK, picture(1)], BLUE, resolution=None, steps=2, output="array")
    first, failed, last = caught.value.results
    assert isinstance(failed, Failed)
    assert first.size == last.size == (SIDE, SIDE)


@pytest.mark.usefixtures("without_networks")
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_files_whose_edit_is_not_finite_are_listed_and_the_others_written(editor, tmp_path, batch_size):
    lines = []
    for i, pixels in enumerate((picture(0), BLACK, picture(1))):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png"}))
    (tmp_path / "list.jsonl").write_text("\n".join(lines), "utf-8")
    jobs, _ = plan_edits(tmp_path / "list.jsonl", BLUE, "best", tmp_path / "out", seed=0)
    (fault,) = edit_to_files(editor, jobs, {"steps": 2, "resolution": "native"}, batch_size)
    assert "1.png" in fault
    assert "NaN" in fault
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["00000_0.png", "00002_2.png"]


# Loading and saving


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("model", {"model": None}),
        ("model", {"model": 5}),
        ("model", {"model": ""}),
        ("dtype", {"model": "shapes", "dtype": "fp16"}),
        ("dtype", {"model": "shapes", "dtype": int}),
    ],
)
def test_loading_names_the_argument(name, arguments):
    with pytest.raises(ValueError, match=f"^{name}="):
        Editor.load(**arguments)


@pytest.mark.usefixtures("unchecked_annotations")
def test_saving_names_the_argument(editor):
    with pytest.raises(ValueError, match=r"^directory=None"):
        editor.save(None)
