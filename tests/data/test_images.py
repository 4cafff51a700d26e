import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rewardedit_jax.data.images import ImageError, decode_image, fit, fit_size, read_image, square, to_unit


def _ramp(width=6, height=4):
    return Image.fromarray(np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3))


def _png(array):
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return data.getvalue()


def test_rgb_is_read_as_it_is(tmp_path):
    _ramp().save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(_ramp()))


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the picture is upright after a quarter turn clockwise
    _ramp().save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png")), np.rot90(np.asarray(_ramp()), -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(tmp_path, mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    if mode == "P":
        image = Image.new("P", (2, 1))
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.putpixel((1, 0), 1)
        image.info["transparency"] = 1
    image.convert(mode).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png"))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_half_transparent_is_mixed_with_white():
    assert np.asarray(decode_image(_png(np.array([[[0, 0, 0, 51]]], np.uint8)), "a"))[0, 0].tolist() == [204] * 3


def test_sixteen_bit_grey_is_scaled_not_clipped():
    image = decode_image(_png(np.array([[0, 32768, 65535]], np.uint16)), "a")
    assert np.asarray(image)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("content", [b"", b"no image", _png(np.zeros((40, 40, 3), np.uint8))[:60]])
def test_an_unreadable_file_is_named(tmp_path, content):
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"broken\.png"):
        read_image(tmp_path / "broken.png")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.jpg cannot be read: No such file"):
        read_image(tmp_path / "nowhere.jpg")


def test_pixels_without_a_white_are_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match=r"a\.tiff.*mode F"):
        read_image(tmp_path / "a.tiff")


def test_square_keeps_no_aspect_and_is_bicubic():
    resized = square(_ramp(12, 6), 4)
    np.testing.assert_array_equal(np.asarray(resized), np.asarray(_ramp(12, 6).resize((4, 4), Image.BICUBIC)))
    assert np.any(np.asarray(resized) != np.asarray(_ramp(12, 6).resize((4, 4), Image.LANCZOS)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (512, 512)),  # nothing to do
        ((300, 300), (512, 512)),  # small images grow
        ((600, 300), (512, 256)),  # 600 → 512, 300 → 256 = 4·64
        ((640, 480), (512, 384)),
        ((480, 640), (384, 512)),  # portrait
        ((1920, 1080), (512, 320)),  # 288 → ceil 4.5 = 5·64; 1920·320/1080 = 568.9 → 8·64
        ((683, 1024), (384, 512)),  # 341.5 → ceil 5.34 = 6·64; 1024·384/683 = 575.7 → 8·64
        ((2000, 100), (1280, 64)),  # 25.6 → 64; 2000·64/100 = 1280
    ],
)
def test_fit_size_by_hand(size, expected):
    assert fit_size(*size, 512, 64) == expected


def test_fit_size_rounds_as_the_published_rule_does():
    assert fit_size(1000, 667, 512, 64) == (512, 320)  # 667 · (384 / 667) = 383.99999999999994


def test_fit_size_is_never_empty():
    sizes = [fit_size(2000, short, 512, 64) for short in range(1, 250)]
    assert min(height for _, height in sizes) == 64


@pytest.mark.parametrize("multiple", [2, 8, 64])
def test_fit_size_takes_any_multiple(multiple):
    for size in [(123, 77), (77, 123), (640, 427)]:
        assert all(side % multiple == 0 for side in fit_size(*size, 128, multiple))


def test_fit_size_refuses_nothing():
    with pytest.raises(ValueError, match="0×5"):
        fit_size(0, 5, 512, 64)


def test_fit_crops_around_the_centre():
    image = Image.new("RGB", (160, 100), "black")
    image.paste("white", (30, 0, 130, 100))
    fitted = np.asarray(fit(image, 128, 128))  # 0.8 · 100 = 80 → 128; 1.28 · 160 = 204.8 → 128: a square is left
    assert fitted.shape == (128, 128, 3)
    assert fitted[:, 8:-8].min() == 255  # without a crop the black would be 24 wide; the edges ring


@pytest.mark.parametrize("module", [np, jnp])
def test_to_unit_spans_minus_one_to_one(module):
    unit = to_unit(module.asarray([[0, 51, 255]], dtype=module.uint8))
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.asarray(unit), [[-1, -0.6, 1]], atol=1e-7)
