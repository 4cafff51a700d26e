"""A run over any folder compiles a handful of programs, whatever the sizes of its images."""

from dataclasses import replace

import numpy as np
from PIL import Image
from tiny_scorers import shapes_scorer, tiny_scorer

from rewardedit_jax.scoring.feature_cache import _encoded
from rewardedit_jax.scoring.inference import _score_features

INSTRUCTIONS = ("make it snow", "remove the red circle", "add a blue square at the top")


def pictures(count, seed):
    """Of one colour each, from 20 to 200 pixels high and wide."""
    rng = np.random.default_rng(seed)
    sizes, colours = rng.integers(20, 201, (count, 2)), rng.integers(0, 256, (count, 3))
    return [
        Image.new("RGB", tuple(size), tuple(colour))
        for size, colour in zip(sizes.tolist(), colours.tolist(), strict=True)
    ]


def shallow(scorer):
    """A layer of each, as compilation is what takes the time here; no other test has a network like it."""
    config = scorer.module.config
    text = replace(config.text, num_hidden_layers=1)
    vision = replace(config.vision, depth=1, fullatt_block_indexes=())
    module, params = tiny_scorer(replace(config, text=text, vision=vision))
    return replace(scorer, module=module, params=params, area=168 * 168)


def programs():
    return np.array([_encoded._cache_size(), _score_features._cache_size()])


def test_a_hundred_edits_of_all_sizes_take_a_handful_of_programs(capfd, monkeypatch):
    logged = []
    monkeypatch.setattr("absl.logging.info", lambda text, *values: logged.append(text % values))
    scorer, before = shallow(shapes_scorer()), programs()
    instructions = [INSTRUCTIONS[i % 3] for i in range(100)]
    scores = scorer.score(pictures(100, 0), pictures(100, 1), instructions)
    assert len({score.overall.mean for score in scores}) == 100
    found = programs() - before
    assert (found > 1).all()
    assert found.sum() <= 10, found
    # Each is announced, as it is compiled for a while.
    assert [sum(word in line for line in logged) for word in ("image encoder for", "scorer for")] == found.tolist()
    assert capfd.readouterr() == ("", "")
