"""The feature cache: an image is encoded once while it is cached, and its features do not depend on its slot."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_scorers import shapes_scorer, tiny_scorer, two_passes

from rewardedit_jax.scoring import feature_cache
from rewardedit_jax.scoring.feature_cache import FeatureCache
from rewardedit_jax.scoring.images import prepare_scorer_image, to_patches
from rewardedit_jax.scoring.inference import scorer_mesh

AREA = 112 * 112
INSTRUCTION = "make it snow"


def picture(seed, size=(112, 112)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))


def image(seed, size=(112, 112)):
    return prepare_scorer_image(picture(seed, size), AREA)


@pytest.fixture(scope="module")
def scorer():
    return shapes_scorer()


@pytest.fixture(scope="module")
def tower(scorer):
    return scorer.module, scorer.params, scorer_mesh()


@pytest.fixture
def encoded(monkeypatch):
    """How many images each call encodes, padding left out."""
    counts, encode = [], feature_cache._encoded

    def counted(module, everywhere, params, held, slots, *rest):
        counts.append(int((np.asarray(slots) < held.values.shape[0]).sum()))
        return encode(module, everywhere, params, held, slots, *rest)

    monkeypatch.setattr(feature_cache, "_encoded", counted)
    return counts


def features(cache, one):
    start = cache.first_slot(one)
    return np.asarray(cache.features.values).reshape(-1, 32)[start : start + one.n_tokens]


def assert_own_features(cache, tower, one):
    module, params, _ = tower
    ids = np.array([[module.config.reward_token_id] + [module.config.image_token_id] * one.n_tokens])
    inputs = ids, np.ones_like(ids), to_patches(one.pixels), np.array([one.grid])
    alone = jax.jit(lambda: module.apply({"params": params}, *inputs).image_features)()
    np.testing.assert_allclose(features(cache, one), alone, atol=1e-5)


def test_what_is_held_is_not_encoded_again(tower, encoded):
    cache, images = FeatureCache(*tower, 2, 8), [image(i) for i in range(4)]
    cache.widen(images)
    cache.hold(images[:2])
    cache.hold([image(1), *images[2:]])  # the same pixels in another object
    assert encoded == [2, 2]
    for one in images:
        assert_own_features(cache, tower, one)


def test_a_program_is_filled_with_what_comes_afterwards(tower, encoded):
    cache, images = FeatureCache(*tower, 4, 16), [image(i) for i in range(5)]
    cache.widen(images)
    cache.hold(images[:1], [images[0], images[1], images[1], *images])
    assert encoded == [4]
    assert [one in cache for one in images] == [True] * 4 + [False]
    cache.hold(images[:4], images)  # nothing is missing, so nothing is begun
    assert encoded == [4]


def test_the_image_used_longest_ago_makes_room(tower, encoded):
    cache, images = FeatureCache(*tower, 1, 3), [image(i) for i in range(4)]
    cache.widen(images)
    for one in (images[0], images[1], images[2], images[0], images[3]):
        cache.hold([one])
    assert [one in cache for one in images] == [True, False, True, True]
    assert encoded == [1] * 4
    for one in (images[0], images[2], images[3]):
        assert_own_features(cache, tower, one)


def test_a_slot_keeps_nothing_of_the_image_before(tower):
    """Where rows and columns of a larger one stayed, positions that count an image's sides would be wrong."""
    cache, large, small = FeatureCache(*tower, 1, 2), image(0, (200, 50)), image(1)
    cache.widen([large, small])
    for one in (large, image(2), small):  # the third takes the slot of the first
        cache.hold([one])
    slot = cache.first_slot(small) // cache.features.values.shape[1]
    assert np.asarray(cache.features.rows[slot]).max() == small.grid[1] // 2 - 1
    assert np.asarray(cache.features.columns[slot]).max() == small.grid[2] // 2 - 1
    assert not np.asarray(cache.features.values[slot, small.n_tokens :]).any()


def test_it_widens_and_keeps_what_it_has(tower, encoded):
    cache, small, large = FeatureCache(*tower, 1, 2), image(0, (600, 40)), image(1)
    assert large.n_patches > small.n_patches
    for one in (small, large):
        cache.widen([one])
        cache.hold([one])
    assert encoded == [1, 1]
    for one in (small, large):
        assert_own_features(cache, tower, one)


def test_too_many_images_are_reported(tower):
    cache = FeatureCache(*tower, 2, 4)
    with pytest.raises(ValueError, match=r"3 images and 2 more .* 4 images"):
        cache.hold([image(i) for i in range(3)])


def test_a_source_that_goes_on_in_the_next_chunk_stays(scorer, encoded):
    """It is the smallest, so that it would come first in its chunk, and be forgotten by the end."""
    sources = [picture(i, (200, 60)) for i in range(10) for _ in range(7)] + [picture(99, (56, 56))] * 100
    edited = [picture(1000 + i, (56, 56)) for i in range(len(sources))]
    scorer.score(sources, edited, INSTRUCTION, improvement=False)
    assert sum(encoded) == 11 + len(edited)


@pytest.mark.parametrize(("sources", "edits_each"), [(1, 20), (10, 4), (3, 70)])
def test_a_scorer_encodes_every_image_once(scorer, encoded, sources, edits_each):
    """Whatever the batches (8 edits) and the chunks (128) that cut a source's edits."""
    of_source = [picture(i) for i in range(sources) for _ in range(edits_each)]
    edited = [picture(1000 + i) for i in range(len(of_source))]
    scorer.score(of_source, edited, INSTRUCTION)
    assert sum(encoded) == sources * (1 + edits_each)


@pytest.mark.slow
def test_scores_are_the_networks_wherever_the_features_lie(scorer):
    """More images of mixed sizes than are held, with positions that count their rows and columns."""
    module, params = tiny_scorer(replace(scorer.module.config, positions="mrope"))
    scorer = replace(scorer, module=module, params=params)
    sizes = [(90, 90), (60, 150), (150, 60)]
    edits = [(picture(i // 3, sizes[i // 3 % 3]), picture(50 + i, sizes[i % 3])) for i in range(18)]
    found = scorer.score(*map(list, zip(*edits, strict=True)), INSTRUCTION, batch_size=1, improvement=False)
    for edit, score in list(zip(edits, found, strict=True))[::8]:
        np.testing.assert_allclose(score.raw, two_passes(scorer, *edit, INSTRUCTION), atol=1e-5)
