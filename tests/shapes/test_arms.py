"""Arms: what each changes in the recipe, and the reward modules of the network that it leads to."""

from functools import cache

import pytest
from paths import ROOT
from rewardedit_jax.editing.initialise import reward_condition

from rewardedit_jax.models.unet import UNet, UNetConfig
from rewardedit_jax.params import abstract_params
from rewardedit_jax.shapes.arms import ARMS, BASELINE, FULL, recipe

RECIPE = f"{ROOT}/configs/reward_ip2p.py:debug"


@cache
def reward_modules(arm):
    """Paths of the reward parameters of a small U-Net with the arm's reward condition."""
    config = recipe(RECIPE, ARMS[arm])
    unet = UNetConfig(
        in_channels=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
        sample_size=8,
        reward=reward_condition(config.reward) if config.reward.layout else None,
    )
    return {name for name in abstract_params(UNet(unet)) if name.startswith("reward_")}


def test_baseline_has_no_reward_modules():
    assert reward_modules(BASELINE) == set()


def test_every_other_arm_has_modules_of_its_own():
    full = reward_modules(FULL)
    assert full
    for arm in set(ARMS) - {BASELINE, FULL}:
        assert reward_modules(arm), arm
        assert reward_modules(arm) <= full, arm
    assert reward_modules("attention") != reward_modules("addition")


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_changes_nothing_but_the_reward(arm):
    changed, plain = recipe(RECIPE, ARMS[arm]).to_dict(), recipe(RECIPE).to_dict()
    changed.pop("reward"), plain.pop("reward")
    assert changed == plain


def test_arms_read_and_act_as_they_are_called():
    for arm, source in (("scores", "scores"), ("feedback", "text")):
        assert recipe(RECIPE, ARMS[arm]).reward.sources == (source,)
    for arm in ("attention", "addition"):
        assert recipe(RECIPE, ARMS[arm]).reward.paths == (arm,)
    full = recipe(RECIPE, ARMS[FULL]).reward
    assert (full.sources, full.paths) == (("scores", "text"), ("attention", "addition"))


@pytest.mark.parametrize("override", ["--config.stepz=3", "--config.steps=many", "--config.steps", "--steps=3"])
def test_wrong_override_is_told_before_anything_starts(override):
    with pytest.raises(ValueError, match="step"):
        recipe(RECIPE, [override])


def test_missing_recipe():
    with pytest.raises(FileNotFoundError, match=r"no recipe nowhere\.py"):
        recipe("nowhere.py:shapes")
