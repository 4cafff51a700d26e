import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import REFERENCES
from PIL import Image

from rewardedit_jax.data.images import ImageError
from rewardedit_jax.scoring.images import prepare_scorer_image, smart_resize, to_patches

SIZES = ("100x100", "300x410", "480x640", "1080x1920")


@pytest.fixture(scope="module")
def published():
    """Arrays and constants of the published preprocessing."""
    name = REFERENCES / "edit_reward_preprocess"
    return np.load(f"{name}.npz"), json.loads(name.with_suffix(".json").read_text("utf-8"))


def _noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_preparation_is_the_published_one(published, size):
    arrays, facts = published
    image = prepare_scorer_image(Image.fromarray(arrays[f"image_{size}"]))
    np.testing.assert_array_equal(image.pixels, arrays[f"resized_image_{size}"])
    assert hashlib.sha256(image.pixels.tobytes()).hexdigest() == facts["resized_uint8_sha256"][size]
    assert image.grid == tuple(arrays[f"grid_thw_{size}"])
    patches = to_patches(image.pixels)
    assert patches.shape == (image.n_patches, 1176)
    np.testing.assert_allclose(patches[arrays[f"rows_{size}"]], arrays[f"pixel_values_{size}"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(patches.mean(1), arrays[f"row_mean_{size}"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(patches.std(1), arrays[f"row_std_{size}"], rtol=0, atol=1e-6)


def test_all_published_sizes(published):
    arrays, _ = published
    table = list(zip(arrays["size_table_in"].tolist(), arrays["size_table_out"].tolist(), strict=True))
    assert len(table) == 43
    assert [smart_resize(*size) for size, _ in table] == [tuple(out) for _, out in table]


def test_patches_lie_in_blocks_of_four():
    pixels = _noise(56, 84)
    rows = []
    for y in range(0, 56, 28):
        for x in range(0, 84, 28):
            for dy, dx in ((0, 0), (0, 14), (14, 0), (14, 14)):
                patch = pixels[y + dy : y + dy + 14, x + dx : x + dx + 14].transpose(2, 0, 1)
                rows.append(np.repeat(patch[:, None], 2, axis=1).ravel())
    mean, std = (np.repeat(v, 392) for v in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]))
    np.testing.assert_allclose(to_patches(pixels), (np.array(rows) / 255 - mean) / std, rtol=0, atol=1e-6)


@pytest.mark.parametrize("of", [np.uint8, np.float32])
def test_devices_cut_and_normalise_as_the_host_does(of):
    """Several images at once, and floats of 0..255 like integers."""
    images = np.stack([_noise(56, 84), _noise(56, 84)[::-1]])
    found = jax.jit(to_patches)(jnp.asarray(images.astype(of)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [to_patches(image) for image in images], rtol=0, atol=1e-6)


def test_a_smaller_budget_gives_smaller_images():
    assert smart_resize(64, 64, 56 * 56) == (56, 56)
    assert smart_resize(2000, 20, 28 * 28) == (280, 28)


@pytest.mark.parametrize(("height", "width"), [(1, 201), (4001, 20), (0, 5)])
def test_the_aspect_limit_is_reported(height, width):
    with pytest.raises(ImageError, match=f"{width}×{height} pixels .*200"):
        smart_resize(height, width)


def test_a_narrow_file_is_named(tmp_path):
    Image.new("RGB", (201, 1)).save(tmp_path / "line.png")
    with pytest.raises(ImageError, match=r"line\.png: 201×1 pixels"):
        prepare_scorer_image(tmp_path / "line.png")


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ImageError, match=r"a\.png cannot be read"):
        prepare_scorer_image(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"b\.png cannot be read"):
        prepare_scorer_image(str(tmp_path / "b.png"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("from_file", [True, False])
def test_transparent_parts_are_white_and_reported(tmp_path, mode, from_file):
    image = Image.new("RGBA", (448, 448), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (224, 0, 448, 448))
    if mode == "P":
        image = Image.fromarray(np.repeat([[0, 1]], 224, axis=1).repeat(448, axis=0).astype(np.uint8)).convert("P")
        image.putpalette([0] * 6)
        image.info["transparency"] = 1
    else:
        image = image.convert(mode)
    if from_file:
        image.save(tmp_path / "a.png")
    prepared = prepare_scorer_image(tmp_path / "a.png" if from_file else image)
    assert prepared.composited
    assert prepared.pixels[:, :224].max() == 0
    assert prepared.pixels[:, 224:].min() == 255


def test_an_alpha_that_hides_nothing_is_not_reported():
    opaque = Image.fromarray(_noise(28, 28))
    plain, with_alpha = prepare_scorer_image(opaque), prepare_scorer_image(opaque.convert("RGBA"))
    assert not plain.composited
    assert not with_alpha.composited
    np.testing.assert_array_equal(plain.pixels, with_alpha.pixels)


def test_digests_tell_images_apart(tmp_path):
    Image.fromarray(_noise(60, 90)).save(tmp_path / "a.png")
    blank = [prepare_scorer_image(Image.new("RGB", size)).digest for size in ((224, 896), (896, 224))]
    same = [prepare_scorer_image(image).digest for image in (tmp_path / "a.png", Image.fromarray(_noise(60, 90)))]
    assert same[0] == same[1]
    assert len({*blank, same[0]}) == 3


def test_threads_may_share_an_opened_file(tmp_path):
    """Pillow reads a file into the picture when it is first used, by whichever thread."""
    Image.fromarray(_noise(1500, 1500)).save(tmp_path / "a.png")
    expected = prepare_scorer_image(tmp_path / "a.png").digest
    for _ in range(3):
        shared = Image.open(tmp_path / "a.png")
        with ThreadPoolExecutor(8) as pool:
            assert {image.digest for image in pool.map(prepare_scorer_image, [shared] * 16)} == {expected}
