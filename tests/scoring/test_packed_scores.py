"""One pass over packed rows gives the outputs of a pass per prompt, and of each edit alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_scorers import one_prompt, tiny_config, tiny_scorer
from tiny_tokenizer import write_tiny_tokenizer
from whole_batch import whole_batch

from rewardedit_jax.models.vision_plan import plan_images
from rewardedit_jax.scoring.images import normalise_patches, to_patches
from rewardedit_jax.scoring.packing import prepare_item
from rewardedit_jax.scoring.tokenizer import load_scorer_tokenizer

AREA = 112 * 112


def picture(seed, size):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_scorer_tokenizer(write_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def items(tokenizer):
    source = picture(0, (100, 80))
    edits = [(source, picture(1, (100, 80)), "add a bowl"), (source, picture(2, (64, 128)), "make it snow, please")]
    edits.append((picture(3, (60, 60)), picture(4, (90, 60)), "remove the tree"))
    return [prepare_item(*edit, tokenizer, area=AREA) for edit in edits]


def scores(module, params, batch):
    return np.asarray(run(module, params, batch))[real(batch)]


def real(batch):
    return (batch.prompts.segments >= 0).any(axis=1)


def run(module, params, batch, reward_token=None):
    plan = plan_images(batch.grids, module.config.vision, batch.patches.shape[1])
    arguments = jax.tree.map(jnp.asarray, (normalise_patches(batch.patches), plan, batch.prompts, reward_token))
    return jax.jit(partial(module.apply, method="score"))({"params": params}, *arguments)


@pytest.mark.parametrize("positions", ["plain", "mrope"])
def test_a_packed_pass_equals_two_passes(tokenizer, items, positions):
    module, params = tiny_scorer(tiny_config(positions=positions, image_token_id=tokenizer.image_id))
    packed = scores(module, params, whole_batch(items, 4))
    grids = np.concatenate([[item.source.grid, item.edited.grid] for item in items])
    pixels = np.concatenate([patches(image) for item in items for image in (item.source, item.edited)])
    for head in (0, 1):
        ids, mask = padded([item.prompts[head] for item in items])
        alone = one_prompt(module, params, ids, mask, pixels, grids, head)
        np.testing.assert_allclose(packed[:, head], alone, atol=1e-5)
    assert packed.std() > 0.05


def test_positions_matter(tokenizer, items):
    plain, mrope = (
        scores(*tiny_scorer(tiny_config(positions=p, image_token_id=tokenizer.image_id)), whole_batch(items, 4))
        for p in ("plain", "mrope")
    )
    assert np.abs(plain - mrope).max() > 1e-3


def test_batches_and_padding_change_nothing(tokenizer, items):
    module, params = tiny_scorer(tiny_config(image_token_id=tokenizer.image_id))
    together = scores(module, params, whole_batch(items, 8))
    for i, item in enumerate(items):
        alone = scores(module, params, whole_batch([item], 1))
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5)


def test_a_reward_token_stands_for_its_row(tokenizer, items):
    module, params = tiny_scorer(tiny_config(image_token_id=tokenizer.image_id))
    batch = whole_batch(items, 4)
    own = jnp.asarray(params["decoder"]["embed_tokens"]["embedding"][-1])
    np.testing.assert_allclose(run(module, params, batch, own)[real(batch)], scores(module, params, batch), atol=1e-6)
    gradient = jax.grad(lambda row: run(module, params, batch, row)[real(batch)].sum())(own)
    assert np.abs(gradient).max() > 1e-3


def patches(image):
    return to_patches(image.pixels)


def padded(prompts):
    length = max(map(len, prompts)) + 3
    ids, mask = (np.zeros((len(prompts), length), np.int32) for _ in range(2))
    for i, prompt in enumerate(prompts):
        ids[i, : len(prompt)], mask[i, : len(prompt)] = prompt, 1
    return ids, mask
