"""The scorer that a run starts from: what its first layer is made of when some pairs cannot be read."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_models import get_config

from rewardedit_jax.data.bad_records import BadRecords
from rewardedit_jax.data.preferences import PreferenceFile
from rewardedit_jax.scoring.initialise import starting_scorer

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
    return starting_scorer(config, source).params["visual"]["patch_embed"]["proj"]["kernel"]


def test_a_broken_edit_is_told_or_left_out(tmp_path):
    source = pair_list(tmp_path)
    whole = first_layer(source)
    pair_list(tmp_path, broken=[2])
    with pytest.raises(BadRecords, match=r"(?s)pair 2:2a\.png: image .*2a\.png .*\ndata\.skip_bad=True goes on"):
        first_layer(source)
    kernel = first_layer(source, skip_bad=True)
    assert np.isfinite(kernel).all()
    assert np.abs(kernel - whole).max() > 1e-3


def test_nothing_to_look_at_is_an_error(tmp_path):
    with pytest.raises(BadRecords, match="of 6 pairs, some were tried and none can be used"):
        first_layer(pair_list(tmp_path, broken=range(PAIRS)), skip_bad=True)
