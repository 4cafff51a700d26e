import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_expit, logsumexp

from rewardedit_jax.scoring.logistic_normal import expected_logistic_loss, log_expected_sigmoid

LOSS, LOG_SIGMOID = jax.jit(expected_logistic_loss), jax.jit(log_expected_sigmoid)
VALUES_AND_GRADIENTS = {
    f: jax.jit(lambda m, v, f=f: (f(m, v), *jax.grad(lambda m, v: f(m, v).sum(), (0, 1))(m, v)))
    for f in (expected_logistic_loss, log_expected_sigmoid)
}


def _grid(means, stds):
    """All combinations as float32 (mean, variance), and the same numbers in float64 (mean, std)."""
    mean, std = (x.ravel().astype(np.float32) for x in np.meshgrid(means, stds))
    variance = std**2
    return jnp.array(mean), jnp.array(variance), mean.astype(np.float64), np.sqrt(variance.astype(np.float64))


def _gauss_hermite(mean, std):
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    return np.logaddexp(0, -(mean[:, None] + std[:, None] * nodes)) @ (weights / weights.sum())


def _trapezoid(mean, std):
    """E softplus(-z) by 100,001 equal steps over ±12 standard deviations."""
    e = np.linspace(-12, 12, 100_001)
    density = np.exp(-(e**2) / 2) * (e[1] - e[0]) / np.sqrt(2 * np.pi)
    return np.array([np.logaddexp(0, -(m + s * e)) @ density for m, s in zip(mean, std, strict=True)])


def _log_trapezoid(mean, std):
    """log E sigmoid(z), in logarithms; the integrand lies under N(m, s²) and under e^z N(m, s²) ~ N(m + s², s²)."""

    def one(m, s):
        z = np.linspace(m - 14 * s, m + s * s + 14 * s, 20_001)
        logs = log_expit(z) - ((z - m) / s) ** 2 / 2 - np.log(s * np.sqrt(2 * np.pi))
        return logsumexp(logs) + np.log(z[1] - z[0])

    return np.array([one(m, s) for m, s in zip(mean, std, strict=True)])


MEANS = [-1000, -300, -60, -20, -8, -3, -1, -0.3, 0, 0.01, 0.7, 2, 5, 11, 30, 100, 1000]


class TestExpectedLogisticLoss:
    def test_agrees_with_200_gauss_hermite_points(self):
        # Beyond a standard deviation of 3 those 200 points themselves are off: their distance is 0.22 of it.
        mean, variance, *exact = _grid(MEANS, np.exp(np.linspace(-10, 1.1, 23)))
        reference = _gauss_hermite(*exact)
        error = np.abs(LOSS(mean, variance) - reference)
        assert np.max(error / np.maximum(1, reference)) < 1e-6

    @pytest.mark.parametrize("std", [1, 3, 10, 100, 1000, 22026])
    def test_agrees_with_a_dense_sum_for_wide_gaussians(self, std):
        mean, variance, *exact = _grid([*MEANS, 1.4 * std, 3 * std], [std])
        reference = _trapezoid(*exact)
        error = np.abs(LOSS(mean, variance) - reference)
        assert np.all(error < np.maximum(1e-6 * np.maximum(1, reference), 1e-7 * std))

    def test_without_variance_it_is_the_logistic_loss(self):
        mean = jnp.array(MEANS, jnp.float32)
        expected = np.logaddexp(0, -np.asarray(mean, np.float64))
        np.testing.assert_allclose(LOSS(mean, jnp.zeros_like(mean)), expected, rtol=1e-6, atol=1e-6)

    def test_gradients_are_those_of_the_integral(self):
        mean, variance, *exact = _grid([-8, -3, -1, 0, 0.7, 2, 5], [0.01, 0.3, 1, 3, 30])
        step = 1e-4
        by_mean = (_trapezoid(exact[0] + step, exact[1]) - _trapezoid(exact[0] - step, exact[1])) / (2 * step)
        by_std = (_trapezoid(exact[0], exact[1] + step) - _trapezoid(exact[0], exact[1] - step)) / (2 * step)
        _, d_mean, d_variance = VALUES_AND_GRADIENTS[expected_logistic_loss](mean, variance)
        np.testing.assert_allclose(d_mean, by_mean, atol=1e-6)
        np.testing.assert_allclose(d_variance * 2 * exact[1], by_std, atol=2e-6)


class TestLogExpectedSigmoid:
    @pytest.mark.parametrize("std", [0.01, 0.5, 1, 4, 10, 40])
    def test_agrees_with_a_dense_sum_also_in_the_tail(self, std):
        # The two forms meet at mean = -std²/2, and differ most from their own limits near it.
        mean, variance, *exact = _grid([*MEANS, *(-(std**2) * np.array([0.3, 0.49, 0.5, 0.51, 0.7, 1, 2]))], [std])
        reference = _log_trapezoid(*exact)
        error = np.abs(LOG_SIGMOID(mean, variance) - reference)
        assert np.max(error / np.maximum(1, np.abs(reference))) < 1e-6

    def test_both_signs_add_up_to_one(self):
        mean, variance, *_ = _grid([0, 0.5, 3, 9], [0.1, 1, 20])
        total = np.exp(LOG_SIGMOID(mean, variance)) + np.exp(LOG_SIGMOID(-mean, variance))
        np.testing.assert_allclose(total, 1, atol=1e-6)

    def test_its_slope_at_the_seam_is_one_half(self):
        _, slope, _ = VALUES_AND_GRADIENTS[log_expected_sigmoid](
            jnp.float32([-2, -2.001, -1.999]), jnp.float32([4] * 3)
        )
        np.testing.assert_allclose(slope, 0.5, atol=1e-3)


@pytest.mark.parametrize("function", VALUES_AND_GRADIENTS)
def test_values_and_gradients_are_finite_at_extremes(function):
    mean, variance, *_ = _grid([-1e3, -1, 0, 1, 1e3], np.exp([-10, 0, 10]))
    assert all(np.isfinite(x).all() for x in VALUES_AND_GRADIENTS[function](mean, variance))
