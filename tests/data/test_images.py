import io
import os
import struct
import warnings
from unittest.mock import Mock

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from rewardedit_jax.data.images import (
    MAX_SIDE,
    ImageError,
    decode_image,
    fit,
    fit_size,
    is_transparent,
    read_image,
    square,
    to_unit,
    upright_rgb,
)


def _ramp(width=6, height=4):
    return Image.fromarray(np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3))


def _encoded(image, form, **options):
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def _png(array, **options):
    return _encoded(Image.fromarray(array), "PNG", **options)


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


@pytest.mark.parametrize(("mode", "order"), [("I;16", "<u2"), ("I;16L", "<u2"), ("I;16B", ">u2"), ("I;16N", "=u2")])
def test_sixteen_bit_grey_is_scaled_not_clipped(mode, order):
    image = Image.frombytes(mode, (4, 1), np.array([0, 256, 32768, 65535], order).tobytes())
    assert np.asarray(upright_rgb(image))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(("mode", "order", "form"), [("I;16", "<u2", "PNG"), ("I;16B", ">u2", "TIFF")])
def test_sixteen_bit_grey_of_a_file(mode, order, form):
    image = Image.frombytes(mode, (2, 1), np.array([258, 65535], order).tobytes())
    assert np.asarray(decode_image(_encoded(image, form), "a"))[0, :, 0].tolist() == [1, 255]


def test_the_transparent_value_of_sixteen_bit_grey_is_white():
    grey = np.array([[0, 300, 301]], np.uint16)
    hole = Image.open(io.BytesIO(_png(grey, transparency=300)))
    assert np.asarray(upright_rgb(hole))[0, :, 0].tolist() == [0, 255, 1]
    assert is_transparent(hole)
    assert not is_transparent(Image.open(io.BytesIO(_png(grey, transparency=302))))


def test_the_transparent_colour_of_sixteen_bits_is_white():
    image = Image.fromarray(np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8))
    image.info["transparency"] = (0x0155, 0x0255, 0x0355)  # as Pillow opens a PNG of 16 bits per channel
    assert is_transparent(image)
    assert np.asarray(upright_rgb(image))[0].tolist() == [[255, 255, 255], [1, 2, 4]]


@pytest.mark.parametrize("content", [b"", b"no image", _png(np.zeros((40, 40, 3), np.uint8))[:60]])
def test_an_unreadable_file_is_named(tmp_path, content):
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"broken\.png"):
        read_image(tmp_path / "broken.png")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("bad tile"), "bad tile"),
        (struct.error("too few bytes"), "too few bytes"),
        (AssertionError(), "its decoder raised AssertionError"),
        (MemoryError(), "its decoder raised MemoryError"),
    ],
)
def test_whatever_a_decoder_raises_the_file_is_named(tmp_path, monkeypatch, error, reason):
    _ramp().save(tmp_path / "a.png")
    monkeypatch.setattr(PngImageFile, "load", Mock(side_effect=error))
    with pytest.raises(ImageError, match=rf"a\.png cannot be read: {reason}"):
        read_image(tmp_path / "a.png")


def test_a_decoder_that_fails_on_opening_is_an_error():
    """Names that are part of the reason are named too."""
    header = b"DDS " + struct.pack("<I", 124) + bytes(120)
    with pytest.raises(ImageError, match=r"image pixel cannot be read: .*pixel format"):
        decode_image(header, "pixel")


def test_a_palette_image_without_its_palette_object_is_read():
    image = _ramp().quantize(8)
    expected = np.asarray(image.convert("RGB"))
    image.palette = None  # as Pillow leaves it after loading an ICNS file
    assert not is_transparent(image)
    np.testing.assert_array_equal(np.asarray(upright_rgb(image)), expected)


@pytest.mark.parametrize("use", [upright_rgb, is_transparent])
def test_an_opened_file_that_is_cut_short_is_an_error(use):
    image = Image.open(io.BytesIO(_encoded(_ramp(64, 64), "JPEG")[:-200]))
    with pytest.raises(ImageError, match="truncated"):
        use(image)


@pytest.mark.parametrize(("name", "reason"), [("nowhere.jpg", "No such file"), ("a\0.jpg", "embedded null byte")])
def test_a_file_that_cannot_be_had_is_named(tmp_path, name, reason):
    with pytest.raises(ImageError, match=rf"{tmp_path / name} cannot be read: {reason}"):
        read_image(tmp_path / name)


def test_an_empty_name_is_no_directory():
    with pytest.raises(ImageError, match="its name is empty"):
        read_image("")


def test_pixels_without_a_white_are_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match=r"a\.tiff.*mode F"):
        read_image(tmp_path / "a.tiff")


def test_a_huge_file_is_not_read_into_memory(tmp_path):
    (tmp_path / "a.png").touch()
    os.truncate(tmp_path / "a.png", 2**40)  # sparse: it takes no space on the disk
    with pytest.raises(ImageError, match=r"a\.png .*1,099,511,627,776 bytes"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_picture_is_read(form):
    later = [Image.new("RGB", (4, 4), colour) for colour in ("lime", "blue")]
    data = _encoded(
        Image.new("RGB", (4, 4), "red"),
        form,
        save_all=True,
        append_images=later,
        **{"lossless": True} if form == "WEBP" else {},
    )
    assert np.asarray(decode_image(data, "a"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("side", [11, 15])  # Pillow warns of 121 pixels and refuses 225
def test_an_image_of_too_many_pixels_is_named_and_not_decoded(tmp_path, monkeypatch, side):
    _ramp(side, side).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 120)
    monkeypatch.setattr(PngImageFile, "load", Mock(side_effect=AssertionError("decoded")))
    with warnings.catch_warnings(action="ignore"), pytest.raises(ImageError, match=r"bomb\.png .*120 pixels"):
        read_image(tmp_path / "bomb.png")
    monkeypatch.undo()
    assert read_image(tmp_path / "bomb.png").size == (side, side)


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


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (10, 651)])
def test_an_image_that_is_too_narrow_is_not_scaled(monkeypatch, size):
    monkeypatch.setattr(ImageOps, "fit", Mock(side_effect=AssertionError("scaled")))
    with pytest.raises(ImageError, match=rf"{size[0]}×{size[1]} .*{MAX_SIDE} pixels"):
        fit(Image.new("L", size), 512, 64)


def test_the_narrowest_image_is_scaled():
    assert fit(Image.new("L", (10, 640)), 512, 64).size == (64, MAX_SIDE)


def test_a_resolution_beyond_the_bound_is_refused():
    with pytest.raises(ValueError, match=r"resolution=1000000: .*4096"):
        fit(Image.new("L", (64, 64)), 10**6, 64)


@pytest.mark.parametrize("module", [np, jnp])
def test_to_unit_spans_minus_one_to_one(module):
    unit = to_unit(module.asarray([[0, 51, 255]], dtype=module.uint8))
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.asarray(unit), [[-1, -0.6, 1]], atol=1e-7)
