"""The scorer that a training run starts from, and the kernel of its first layer."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_models import get_config

from rewardedit_jax.data.preferences import PreferenceFile
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.scoring.initialise import starting_scorer, whitening_kernel

PAIRS = 6


def pair_list(folder, broken=()):
    """Pairs of noise pictures, those of `broken` numbers with a first edit that was cut short."""
    rng, pairs = np.random.default_rng(0), []
    for i in range(PAIRS):
        names = [f"{i}{name}.png" for name in ("source", "a", "b")]
        for name in names:
            Image.fromarray(rng.integers(0, 256, (56, 56, 3), np.uint8)).save(folder / name)
        pairs.append({"prompt": "snow", **dict(zip(("path_src", "path1", "path2"), names, strict=True))})
    for i in broken:
        (folder / f"{i}a.png").write_bytes((folder / f"{i}a.png").read_bytes()[:200])
    (folder / "pairs.json").write_text(json.dumps(pairs))
    return PreferenceFile(folder / "pairs.json")


def first_layer(source, skip_bad=False):
    config = get_config("edit_reward", "debug")
    config.data.skip_bad = skip_bad
    start = starting_scorer(config, source)
    params = start.init(jax.random.key(0), lambda path: path == "visual/patch_embed/proj/kernel")
    return params["visual"]["patch_embed"]["proj"]["kernel"]


def test_a_broken_edit_is_reported_or_skipped(tmp_path):
    source = pair_list(tmp_path)
    whole = first_layer(source)
    pair_list(tmp_path, broken=[2])
    with pytest.raises(BadRecords, match=r"(?s)pair 2:2a\.png: image .*2a\.png .*\ndata\.skip_bad=True"):
        first_layer(source)
    kernel = first_layer(source, skip_bad=True)
    assert np.isfinite(kernel).all()
    assert np.abs(kernel - whole).max() > 1e-3


def test_nothing_to_look_at_is_an_error(tmp_path):
    with pytest.raises(BadRecords, match="6 pairs"):
        first_layer(pair_list(tmp_path, broken=range(PAIRS)), skip_bad=True)


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
    """The weaker half of the directions has a far larger share of a feature than with a random kernel."""
    rng = np.random.default_rng(0)
    data, rotation = patches(rng)
    centred = data - data.mean(0)

    def shares(kernel):
        of = np.array([np.mean((np.outer(centred @ axis, axis) @ kernel) ** 2) for axis in rotation.T])
        return of / of.sum()

    whitened, drawn = shares(whitening_kernel(data, 400, seed=0)), shares(rng.standard_normal((12, 400)))
    assert whitened[6:].sum() > 5 * drawn[6:].sum()
    assert whitened[-1] < 1e-9  # nothing is made of what never varies
