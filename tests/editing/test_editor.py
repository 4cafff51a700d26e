"""What an edit depends on, and what it does not; what it refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image
from tiny_editors import GRID, SIDE, latents, picture, tiny_editor

from rewardedit_jax import Editor, Reward
from rewardedit_jax.data.clip_tokenizer import TruncationWarning
from rewardedit_jax.data.images import ImageError
from rewardedit_jax.data.runs import NonFiniteResults
from rewardedit_jax.editing.sampling import edit_batch

INSTRUCTION = "make the red circle blue"


@pytest.fixture(scope="module")
def editor():
    return tiny_editor(layout="released")


@pytest.fixture(scope="module")
def plain():
    return tiny_editor()


def edit(editor, image=None, instruction=INSTRUCTION, **settings):
    """Two steps of DDIM at the picture's own size: all tests that can share its compilation."""
    settings = {"steps": 2, "sampler": "ddim", "resolution": None, "output": "array", "batch_size": 2, **settings}
    return editor.edit(picture() if image is None else image, instruction, **settings)


# What an edit depends on


def test_edit_is_a_picture_that_each_input_changes(editor):
    first = edit(editor)
    assert first.shape == (1, SIDE, SIDE, 3)
    assert first.dtype == np.float32
    assert 0 <= first.min() < first.max() <= 1
    others = (
        edit(editor, picture(1)),
        edit(editor, instruction="make the red circle green"),
        edit(editor, reward=Reward(following=4)),
        edit(editor, reward=Reward(feedback=("None", "the square is gone", "None"))),
        edit(editor, text_guidance=3),
        edit(editor, image_guidance=3),
        edit(editor, seed=1),
    )
    for i, other in enumerate(others):
        assert np.abs(other - first).max() > 1e-3, i
    np.testing.assert_array_equal(edit(editor), first)


def test_prompts_scales_seeds_and_rewards_share_a_compilation(editor):
    edit(editor)
    before = edit_batch._cache_size()
    edit(editor, picture(3), "remove the green square", reward=Reward(1, 2, 3, feedback=["a", "b", "c"]), seed=7)
    edit(editor, text_guidance=np.float64(2), image_guidance=1, reward=None, latents=latents())
    edit(editor, sampler="dpmpp_2m")
    assert edit_batch._cache_size() == before


def test_given_latents_are_what_it_starts_from(editor):
    first, second = (edit(editor, latents=latents(seed=seed), seed=seed) for seed in (1, 2))
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(edit(editor, latents=latents(seed=1), seed=5), first)


def test_ancestral_steps_take_the_noise_that_is_given(editor):
    noise = np.random.default_rng(3).standard_normal((2, 1, GRID, GRID, 4), np.float32)
    given = {"sampler": "euler_ancestral", "latents": latents()}
    first = edit(editor, **given, noise=noise, seed=1)
    np.testing.assert_array_equal(edit(editor, **given, noise=noise, seed=2), first)
    drawn = edit(editor, **given, seed=1)
    assert np.abs(drawn - first).max() > 1e-3
    assert np.abs(edit(editor, **given, seed=2) - drawn).max() > 1e-3


# Batches


def test_batching_and_company_do_not_matter(editor):
    pictures, instructions = [picture(i) for i in range(3)], [INSTRUCTION, "remove the green square", "add a star"]
    rewards = [Reward(), Reward(1, 2, 3), None]
    asked = zip(pictures, instructions, rewards, strict=True)
    alone = [edit(editor, image, text, reward=reward, seed=i) for i, (image, text, reward) in enumerate(asked)]
    for batch_size in (1, 2):  # 2: the second batch is filled up
        together = edit(editor, pictures, instructions, reward=rewards, batch_size=batch_size)
        np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)


def test_one_image_meets_many_instructions_and_the_other_way_round(editor):
    instructions = [INSTRUCTION, "remove the green square"]
    pairs = edit(editor, [picture(), picture()], instructions)
    np.testing.assert_array_equal(edit(editor, picture(), instructions), pairs)
    pairs = edit(editor, [picture(0), picture(1)], [INSTRUCTION, INSTRUCTION])
    np.testing.assert_array_equal(edit(editor, [picture(0), picture(1)]), pairs)


def test_one_answer_for_one_question_a_list_for_a_list(editor):
    one, listed = edit(editor, output="pil"), edit(editor, [picture()], output="pil")
    assert isinstance(one, Image.Image)
    assert isinstance(listed, list)
    np.testing.assert_array_equal(np.asarray(one), np.round(edit(editor)[0] * 255).astype(np.uint8))
    np.testing.assert_array_equal(np.asarray(listed[0]), np.asarray(one))


def test_sizes_may_differ(editor):
    square, wide = picture(), picture(1, SIDE, SIDE + 4)
    first, second, third = edit(editor, [square, wide, square], seed=[4, 5, 4], output="pil")
    assert (first.size, second.size) == ((SIDE, SIDE), (SIDE + 4, SIDE))
    np.testing.assert_array_equal(np.asarray(third), np.asarray(first))
    with pytest.raises(ValueError, match=r"several sizes.*'pil'"):
        edit(editor, [square, wide, square], seed=[4, 5, 4])


def test_native_resolution_is_the_u_nets(editor):
    assert editor.prepare(picture(0, 30, 60)).size == (SIDE, SIDE // 2)
    assert editor.prepare(picture(0, 30, 60), 40).size == (40, 20)
    assert edit(editor, picture(0, 40, 40), resolution="native").shape == (1, SIDE, SIDE, 3)
    np.testing.assert_array_equal(edit(editor, resolution=SIDE), edit(editor))


def test_large_images_go_through_the_autoencoder_in_tiles(editor):
    large = picture(0, SIDE, SIDE + 4)
    whole, tiled = edit(editor, large), edit(editor, large, tile=SIDE)
    assert tiled.shape == whole.shape
    assert 1e-4 < np.abs(tiled - whole).mean() < 0.1
    for tile in (SIDE, SIDE + 4):  # an image of one tile does not change at all
        np.testing.assert_array_equal(edit(editor, tile=tile), edit(editor))


# Rewards


def test_without_reward_it_is_the_plain_editor(editor, plain):
    """None leaves the reward modules out: a plain editor of the same weights does the same."""
    unet = {name: tree for name, tree in editor.params["unet"].items() if not name.startswith("reward_")}
    twin = Editor(plain.base, {**editor.params, "unet": unet})
    np.testing.assert_allclose(edit(editor, reward=None), edit(twin), atol=1e-5)
    assert np.abs(edit(editor) - edit(twin)).max() > 1e-3


def test_reward_guidance(editor):
    asked = {"reward": Reward(5, 4, 3), "low_reward": Reward(0, 1, 2)}
    # The fourth branch is another program; where it has nothing to add, another result would be its fault.
    np.testing.assert_allclose(edit(editor, **asked, reward_guidance=1e-9), edit(editor, **asked), atol=1e-5)
    same = {"reward": Reward(5, 4, 3), "low_reward": Reward(5, 4, 3)}
    np.testing.assert_allclose(edit(editor, **same, reward_guidance=2), edit(editor, **asked), atol=1e-5)
    guided = edit(editor, **asked, reward_guidance=2)
    assert np.abs(guided - edit(editor, **asked)).max() > 1e-3
    assert np.abs(guided - edit(editor, reward=Reward(5, 4, 3), reward_guidance=2)).max() > 1e-3


# Images


def test_transparency_lies_on_white_whatever_the_mode(editor):
    grey = Image.fromarray(picture()[..., 0])
    clear = grey.convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 0))
    white = edit(editor, np.full((SIDE, SIDE, 3), 255, np.uint8))
    palette = Image.new("P", (SIDE, SIDE), 0)
    palette.info["transparency"] = 0
    for image in (clear, np.asarray(clear), palette):
        np.testing.assert_array_equal(edit(editor, image), white)
    np.testing.assert_array_equal(edit(editor, grey), edit(editor, grey.convert("RGB")))


def test_images_come_as_pictures_arrays_and_paths(editor, tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    for image in (Image.fromarray(picture()), tmp_path / "a.png", str(tmp_path / "a.png"), jnp.asarray(picture())):
        np.testing.assert_array_equal(edit(editor, image), edit(editor))


# What it refuses


def refuses(message):
    return pytest.raises(ValueError, match=message)


def test_images_that_are_none(editor, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match=re.escape(str(tmp_path / "torn.png"))):
        edit(editor, tmp_path / "torn.png")
    with pytest.raises(ImageError, match=r"absent\.png cannot be read: No such file"):
        edit(editor, "absent.png")
    with pytest.raises(ImageError, match=r"float32\[16, 16, 3\]"):
        edit(editor, picture().astype(np.float32))
    with pytest.raises(ImageError, match="NoneType"):
        edit(editor, [None])


def test_sizes_that_do_not_fit(editor):
    with refuses("18×17.*multiples of 4.*resolution"):
        edit(editor, picture(0, 17, 18))


def test_numbers_that_do_not_go_together(editor):
    with refuses("2 images for 3 edits"):
        edit(editor, [picture()] * 2, [INSTRUCTION] * 3)
    with refuses("2 rewards for 3 edits"):
        edit(editor, instruction=[INSTRUCTION] * 3, reward=[Reward()] * 2)
    with refuses("2 seeds for 1 edits"):
        edit(editor, seed=[1, 2])
    with refuses("batch_size=0"):
        edit(editor, batch_size=0)


def test_instructions(editor):
    with refuses("instruction of edit 1 is ' '"):
        edit(editor, instruction=[INSTRUCTION, " "])
    with pytest.warns(TruncationWarning, match="tokens .* cut"):
        edit(editor, instruction="make it blue and " * 30)


def test_noise_of_another_shape(editor):
    with refuses(r"latents .*\[2, 8, 8, 4\].*\[1, 8, 8, 4\]"):
        edit(editor, latents=latents(2))
    with refuses(r"noise .*\[2, 1, 8, 8, 4\]"):
        edit(editor, sampler="euler_ancestral", noise=latents())


def test_unknown_names(editor):
    with refuses("'pndm'.*ddim"):
        edit(editor, sampler="pndm")


def test_plain_editors_take_no_reward(plain):
    np.testing.assert_array_equal(edit(plain), edit(plain, reward=None))
    asked = (
        {"reward": Reward()},
        {"reward": Reward(following=4)},
        {"reward": [Reward()]},
        {"reward_guidance": 1},
        {"low_reward": Reward(0, 0, 0)},
    )
    for arguments in asked:
        with refuses("no reward modules"):
            edit(plain, **arguments)


def test_the_best_reward_is_asked_for_by_default(editor):
    np.testing.assert_array_equal(edit(editor), edit(editor, reward=Reward()))
    np.testing.assert_array_equal(edit(editor, reward="best"), edit(editor, reward=Reward(5, 5, 5)))


@pytest.mark.parametrize("path", ["unet/conv_in/kernel", "unet/conv_out/bias", "vae/decoder/conv_out/bias"])
def test_an_overflow_in_the_networks_is_an_error(editor, monkeypatch, path):
    """Also where a clip follows: of x0 in the sampler, of colours after the VAE."""

    def clipped(base, params, inputs, table, *rest):
        return edit_batch(base, params, inputs, table.replace(clip=np.float32(1)), *rest)

    monkeypatch.setattr("rewardedit_jax.editing.editor.edit_batch", clipped)
    flat = flatten_dict(editor.params, sep="/")
    broken = unflatten_dict({**flat, path: np.full_like(flat[path], np.inf)}, sep="/")
    with pytest.raises(NonFiniteResults, match="float32"):
        edit(Editor(editor.base, broken), sampler="dpmpp_2m")


def test_the_fingerprint_tells_editors_apart():
    """By weights, noise process and reward modules; the same editor has the same one each time."""
    editor = tiny_editor()
    others = [tiny_editor(prediction="v_prediction"), tiny_editor(layout="released")]
    changed = Editor(editor.base, jax.tree.map(lambda x: x + 1, editor.params))
    assert editor.fingerprint == tiny_editor().fingerprint
    assert len({editor.fingerprint, changed.fingerprint, *(other.fingerprint for other in others)}) == 4
