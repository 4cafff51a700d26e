"""Metrics of pixels against scikit-image, closed forms, and MagicBrush's script."""

import importlib.util

import numpy as np
import pytest

from rewardedit_jax.evaluation.metrics import pixels


def pictures(seed, count=2, height=24, width=20):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def constant(*values, side=16):
    return np.stack([np.full((side, side, 3), value, np.uint8) for value in values])


@pytest.mark.parametrize(("name", "best"), [("l1", 0), ("l2", 0), ("psnr", np.inf), ("ssim", 1)])
def test_equal_pictures_and_symmetry(name, best):
    metric, a, b = getattr(pixels, name), pictures(0), pictures(1)
    np.testing.assert_allclose(metric(a, a), best, rtol=1e-12)
    np.testing.assert_allclose(metric(a, b), metric(b, a), rtol=1e-9)


def test_differences_in_closed_form():
    a, b = constant(0, 255, 100), constant(51, 0, 100)
    np.testing.assert_allclose(pixels.l1(a, b), [0.2, 1, 0], rtol=1e-12)
    np.testing.assert_allclose(pixels.l2(a, b), [0.04, 1, 0], rtol=1e-12)
    np.testing.assert_allclose(pixels.psnr(a, b), [-10 * np.log10(0.04), 0, np.inf], atol=1e-12)


def test_ssim_of_constant_pictures_in_closed_form():
    """Without variance, only the term of the means is left."""
    a, b = 80.0, 200.0
    c1 = (0.01 * 255) ** 2
    expected = (2 * a * b + c1) / (a**2 + b**2 + c1)
    np.testing.assert_allclose(pixels.ssim(constant(80), constant(200)), expected, rtol=1e-9)


def test_they_agree_with_scikit_image():
    from skimage import metrics

    a, b = pictures(0), pictures(1)
    settings = {"channel_axis": 2, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for i in range(len(a)):
        structural = metrics.structural_similarity(a[i], b[i], data_range=255, **settings)
        assert pixels.ssim(a, b)[i] == pytest.approx(structural, rel=1e-12)
        assert pixels.psnr(a, b)[i] == pytest.approx(metrics.peak_signal_noise_ratio(a[i], b[i]), rel=1e-12)
        assert pixels.l2(a, b)[i] == pytest.approx(metrics.mean_squared_error(a[i] / 255, b[i] / 255), rel=1e-12)


@pytest.mark.oracle
def test_they_agree_with_the_losses_of_magicbrush():
    torch = pytest.importorskip("torch")
    a, b = pictures(0), pictures(1)
    for name, loss in (("l1", torch.nn.L1Loss()), ("l2", torch.nn.MSELoss())):
        expected = [loss(*(torch.from_numpy(x).float() / 255 for x in pair)).item() for pair in zip(a, b, strict=True)]
        np.testing.assert_allclose(getattr(pixels, name)(a, b), expected, rtol=1e-5)


def test_pictures_that_are_too_small_for_ssim():
    with pytest.raises(ValueError, match=r"16×10.*11"):
        pixels.ssim(pictures(0, height=10, width=16), pictures(1, height=10, width=16))


def test_a_missing_scikit_image_is_named_with_its_extra(monkeypatch):
    pixels.require_skimage()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    with pytest.raises(ImportError, match=r"rewardedit_jax\[metrics\]"):
        pixels.require_skimage()
