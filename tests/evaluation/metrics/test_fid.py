"""The Fréchet distance in closed form and against the formula of pytorch-fid, and the resizing of its images."""

import numpy as np
import pytest
import scipy.linalg

from rewardedit_jax.evaluation.metrics.fid import frechet_distance, resize_bilinear


def samples(mean, covariance, count, seed=0):
    """Samples whose mean and covariance are these, not only on average."""
    mean, root = np.asarray(mean), scipy.linalg.sqrtm(np.asarray(covariance)).real
    x = np.random.default_rng(seed).standard_normal((count, len(mean)))
    x -= x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return white @ root + mean


def published(first, second, epsilon=0.0):
    """The formula of pytorch-fid; `epsilon`: what it adds to the diagonals if the root is not finite."""
    c1, c2 = (np.cov(x, rowvar=False) + epsilon * np.eye(x.shape[1]) for x in (first, second))
    root = scipy.linalg.sqrtm(c1 @ c2).real
    gap = first.mean(0) - second.mean(0)
    return gap @ gap + np.trace(c1) + np.trace(c2) - 2 * np.trace(root)


def test_commuting_covariances_in_closed_form():
    """|m1 - m2|² + sum of (s1 - s2)² over common eigenvectors with standard deviations s1, s2."""
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    s1, s2 = np.array([3, 2, 1, 0.5, 0.1, 4]), np.array([1, 2, 3, 0.5, 0.2, 1])
    m1, m2 = np.arange(6.0), np.full(6, 2.0)
    first, second = (
        samples(m, rotation @ np.diag(s**2) @ rotation.T, 40, seed) for m, s, seed in ((m1, s1, 0), (m2, s2, 1))
    )
    expected = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_covariances_that_do_not_commute_as_published():
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((90, 20)) @ rng.standard_normal((20, 20)) for _ in range(2))
    assert frechet_distance(first, second) == pytest.approx(published(first, second), rel=1e-6)


def test_sets_smaller_than_the_features_as_published():
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((30, 30))
    first, second = rng.standard_normal((12, 30)) @ mix, rng.standard_normal((9, 30)) @ mix + 1
    with np.testing.suppress_warnings() as told:
        told.filter(scipy.linalg.LinAlgWarning)
        expected = published(first, second, 1e-6)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)


def test_properties():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((50, 8)), rng.standard_normal((40, 8)) * 2 + 1
    distance = frechet_distance(first, second)
    assert distance > 1
    assert frechet_distance(second, first) == pytest.approx(distance, rel=1e-12)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(rng.permutation(first), second) == pytest.approx(distance, rel=1e-12)
    # A rotation and a shift of both sets move nothing.
    rotation = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    assert frechet_distance(first @ rotation + 3, second @ rotation + 3) == pytest.approx(distance, rel=1e-9)


def test_a_set_of_one_image_is_refused():
    with pytest.raises(ValueError, match="two"):
        frechet_distance(np.zeros((1, 4)), np.zeros((5, 4)))


@pytest.mark.parametrize("size", [(40, 40), (7, 90), (299, 10)])
def test_resizing_keeps_constants_and_slopes(size):
    height, width = size
    ramp = np.linspace(0, 1, width, dtype=np.float32)[None, :, None].repeat(height, 0).repeat(3, 2)
    resized = resize_bilinear(ramp, 64)
    assert resized.shape == (64, 64, 3)
    at = np.clip((np.arange(64) + 0.5) * width / 64 - 0.5, 0, width - 1) / (width - 1)
    np.testing.assert_allclose(resized, at[None, :, None].repeat(64, 0).repeat(3, 2), atol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("size", [(40, 60), (512, 333), (299, 299), (1, 5)])
def test_resizing_is_that_of_torch(size):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).random((*size, 3), np.float32)
    x = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
    expected = torch.nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)[0].numpy()
    np.testing.assert_allclose(resize_bilinear(image, 299), expected.transpose(1, 2, 0), atol=1e-5)
