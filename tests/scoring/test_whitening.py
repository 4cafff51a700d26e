"""The whitening patch embedding: every direction in which patches vary weighs alike, whatever its variance."""

import numpy as np

from rewardedit_jax.scoring.whitening import whitening_kernel


def patches(rng, n=4000, width=12):
    """Standard deviations from 10 down to 0.1 along rotated axes, about a mean that is not zero; the last is dead."""
    deviations = np.append(np.geomspace(10, 0.1, width - 1), 0)
    rotation, _ = np.linalg.qr(rng.standard_normal((width, width)))
    return (rng.standard_normal((n, width)) * deviations @ rotation.T + 3).astype(np.float32), rotation


def test_features_have_unit_mean_square_and_depend_on_the_seed_alone():
    data, _ = patches(np.random.default_rng(0))
    kernel = whitening_kernel(data, 64, seed=5)
    features = (data - data.mean(0)) @ kernel
    np.testing.assert_allclose(np.mean(features**2), 1, rtol=1e-4)
    np.testing.assert_array_equal(kernel, whitening_kernel(data, 64, seed=5))
    assert not np.allclose(kernel, whitening_kernel(data, 64, seed=6))


def test_small_variations_are_seen_beside_large_ones():
    """What the weaker half of the directions has of a feature: many times the part that it has of a random kernel's."""
    rng = np.random.default_rng(0)
    data, rotation = patches(rng)
    centred = data - data.mean(0)

    def shares(kernel):
        of = np.array([np.mean((np.outer(centred @ axis, axis) @ kernel) ** 2) for axis in rotation.T])
        return of / of.sum()

    whitened, drawn = shares(whitening_kernel(data, 400, seed=0)), shares(rng.standard_normal((12, 400)))
    assert whitened[6:].sum() > 5 * drawn[6:].sum()
    assert whitened[-1] < 1e-9  # nothing is made of what never varies
