"""The vision tower of Qwen2.5-VL: what must not matter to an image's features (its numbers: test_edit_reward.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from rewardedit_jax.models.qwen_vision import PARTITION_RULES, QwenVision, QwenVisionConfig, _visible_slots
from rewardedit_jax.models.vision_plan import pad_patches, plan_images, real_features
from rewardedit_jax.params import abstract_params, find_rule

TINY = QwenVisionConfig(
    depth=2, hidden_size=16, num_heads=2, intermediate_size=24, out_hidden_size=12, fullatt_block_indexes=(1,)
)
GRIDS = np.array([[1, 10, 14], [1, 4, 4], [1, 8, 8], [1, 2, 18]])


def tiny():
    module = QwenVision(TINY)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), abstract_params(module))
    return module, params


def pixels(grids, seed=1):
    return np.random.default_rng(seed).standard_normal((int(grids.prod(axis=1).sum()), TINY.patch_values), np.float32)


def features(module, params, values, grids, patches=None):
    plan = plan_images(grids, module.config, patches)
    out = module.apply({"params": params}, jnp.asarray(pad_patches(values, grids, patches)), plan)
    return real_features(np.asarray(out), grids)


def test_padding_changes_nothing():
    module, params = tiny()
    values = pixels(GRIDS)
    plain = features(module, params, values, GRIDS)
    np.testing.assert_allclose(features(module, params, values, GRIDS, 160), plain, atol=1e-5)


def test_an_images_features_are_its_own():
    module, params = tiny()
    values = pixels(GRIDS)
    together = features(module, params, values, GRIDS)
    start = int(GRIDS[0].prod())
    alone = features(module, params, values[start : start + 16], GRIDS[1:2])
    np.testing.assert_allclose(alone, together[start // 4 : start // 4 + 4], atol=1e-5)


def test_windows_hold_each_patch_once():
    plan = plan_images(GRIDS, TINY)
    for i, grid in enumerate(GRIDS):
        held = plan.window_patches[i][plan.window_mask[i]]
        assert sorted(held) == list(range(grid.prod()))
        real = plan.window_slots[i][: grid.prod()]
        np.testing.assert_array_equal(plan.window_patches[i].ravel()[real], np.arange(grid.prod()))


def test_a_windowed_block_does_not_see_other_windows_and_a_full_one_does():
    grids = np.array([[1, 8, 16]])  # two windows, side by side
    values = pixels(grids)
    changed = values.copy()
    changed[0] += 1  # in the left window
    right = plan_images(grids, TINY).window_slots[0][::4] >= 64
    assert right.sum() == 16
    for depth, seen in ((1, False), (2, True)):
        config = QwenVisionConfig(**{**vars(TINY), "depth": depth, "fullatt_block_indexes": (1,) if seen else ()})
        module, params = QwenVision(config), tiny()[1]
        params = {name: tree for name, tree in params.items() if seen or name != "blocks_1"}
        a, b = (features(module, params, x, grids)[right] for x in (values, changed))
        assert (np.abs(a - b).max() > 1e-4) == seen


@pytest.mark.slow
def test_gradients_are_finite_where_windows_are_empty():
    module, params = tiny()
    plan = plan_images(GRIDS, TINY, 160)
    patches = jnp.asarray(pad_patches(pixels(GRIDS), GRIDS, 160))
    grads = jax.grad(lambda p: (module.apply({"params": p}, patches, plan) ** 2).sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_every_slot_sees_something():
    """A softmax over nothing is no number on accelerators, whose kernels mask with -∞ (on a CPU it would not show)."""
    plan = plan_images(GRIDS, TINY, 160)
    held = jnp.asarray(plan.window_mask)
    assert not held.any(axis=-1).all()
    seen = _visible_slots(held)
    assert seen.any(axis=-1).all()
    np.testing.assert_array_equal(seen[held.any(axis=-1)], held[held.any(axis=-1)])


def test_partition_rules_cover_every_parameter():
    assert all(find_rule(PARTITION_RULES, path) for path in flatten_dict(abstract_params(QwenVision(TINY)), sep="/"))


@pytest.mark.parametrize(
    ("grid", "complaint"), [([2, 4, 4], "still images"), ([1, 3, 4], "multiples of 2"), ([1, 0, 4], "multiples of 2")]
)
def test_wrong_grids_are_told(grid, complaint):
    with pytest.raises(ValueError, match=complaint):
        plan_images(np.array([grid]), TINY)
