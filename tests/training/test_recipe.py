"""Recipes: overrides set and unset fields, and the check lists every wrong setting with its value and range."""

import re

import numpy as np
import pytest
from ml_collections import ConfigDict
from paths import ROOT
from toy_task import ToyTask, toy_config

from rewardedit_jax.training.loop import train
from rewardedit_jax.training.recipe import TrainingRecipe, check_recipe, read_recipe

RECIPE = f"{ROOT}/configs/reward_ip2p.py:debug"


def read(*overrides, recipe=RECIPE):
    return read_recipe(recipe, [f"--config.{override}" for override in overrides])


class TestReadRecipe:
    def test_none_unsets_a_field(self):
        config = read("optimizer.ema_decay=None", "optimizer.clip_norm=None", "optimizer.mu_dtype=None", "steps=None")
        assert (config.optimizer.ema_decay, config.optimizer.clip_norm, config.optimizer.mu_dtype) == (None,) * 3
        assert config.steps is None  # the check refuses it

    @pytest.mark.parametrize(
        ("override", "value"),
        [
            ("optimizer.ema_decay=0.999", 0.999),
            ("optimizer.ema_decay=1e-3", 1e-3),
            ("objective.settings.margin=0.5", 0.5),
            ("objective.settings.draws=7", 7),
            ("objective.settings.ties=masked", "masked"),
            ("heads.hidden_sizes=(8, 4)", (8, 4)),
            ("network.text.rope_scaling={'mrope_section': (1, 1, 2)}", {"mrope_section": (1, 1, 2)}),
        ],
    )
    def test_a_field_that_is_none_or_nested_is_set(self, override, value):
        config = read(override, recipe=f"{ROOT}/configs/edit_reward.py:debug")
        for name in override.partition("=")[0].split("."):
            config = config[name]
        assert (config.to_dict() if isinstance(config, ConfigDict) else config) == value

    def test_the_last_override_wins(self):
        assert read("steps=7", "steps=8").steps == 8
        assert read("data.flip=True", "data.flip=false").data.flip is False
        assert read("optimizer.clip_norm=None", "optimizer.clip_norm=2").optimizer.clip_norm == 2.0

    def test_a_missing_recipe_is_refused(self):
        with pytest.raises(FileNotFoundError, match=r"configs/none\.py"):
            read_recipe("configs/none.py:debug")

    @pytest.mark.parametrize(
        ("word", "named"),
        [
            ("steps=7", "steps=7"),
            ("--config.steps", "--config.steps"),
            ("--seed=3", "--seed=3"),
            ("--config.stepz=7", '"steps" instead of "stepz"'),
            ("--config.network.unet.width=7", "width"),
            ("--config.steps=many", "many"),
            ("--config.optimizer=None", "None"),
            ("--config.reward.sources[0]=text", "reward.sources[0]"),
            ("--config.steps.x=3", "steps.x"),
        ],
    )
    def test_what_is_no_override_of_a_field_is_refused(self, word, named):
        with pytest.raises(ValueError, match=re.escape(named)):
            read_recipe(RECIPE, [word])


def faults(schema=TrainingRecipe, **changes):
    with pytest.raises(ValueError, match="wrong setting") as caught:
        check_recipe(toy_config(**changes), schema)
    return str(caught.value).splitlines()[1:]


class TestCheckRecipe:
    def test_valid_settings_pass(self):
        check_recipe(toy_config(), TrainingRecipe)
        unset = {"optimizer.ema_decay": None, "optimizer.clip_norm": None}
        check_recipe(toy_config(**unset, seed=2**32 - 1, **{"optimizer.b1": 0.0}), TrainingRecipe)

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("seed", -1, ">= 0 and < 4294967296"),
            ("seed", 2**32, ">= 0 and < 4294967296"),
            ("steps", -3, ">= 1"),
            ("steps", 0, ">= 1"),
            ("steps", 2.5, "an integer"),
            ("steps", True, "an integer"),
            ("steps", None, "an integer"),
            ("batch_size", 0, ">= 1"),
            ("accumulate", 0, ">= 1"),
            ("log_every", -1, ">= 0"),
            ("checkpoint_every", -1, ">= 0"),
            ("evaluate_every", -1, ">= 0"),
            ("keep_checkpoints", 0, ">= 1"),
            ("mesh.data", 0, ">= 1, or -1"),
            ("mesh.fsdp", -2, ">= 1, or -1"),
            ("mesh.fsdp", -1, "at most one -1"),
            ("optimizer.learning_rate", -0.01, "> 0"),
            ("optimizer.learning_rate", 0.0, "> 0"),
            ("optimizer.learning_rate", np.nan, "finite number > 0"),
            ("optimizer.learning_rate", np.inf, "finite number > 0"),
            ("optimizer.learning_rate", "fast", "finite number > 0"),
            ("optimizer.learning_rate", None, "finite number > 0"),
            ("optimizer.schedule", "linear", "constant, cosine"),
            ("optimizer.warmup_steps", -1, ">= 0"),
            ("optimizer.b1", 1.0, ">= 0 and < 1"),
            ("optimizer.b2", -0.1, ">= 0 and < 1"),
            ("optimizer.eps", 0.0, "> 0"),
            ("optimizer.weight_decay", -1e-3, ">= 0"),
            ("optimizer.clip_norm", 0.0, "> 0, or None"),
            ("optimizer.clip_norm", np.inf, "> 0, or None"),
            ("optimizer.ema_decay", 1.5, ">= 0 and < 1, or None"),
            ("optimizer.ema_decay", 1.0, ">= 0 and < 1, or None"),
            ("optimizer.mu_dtype", "fp16", "float32, bfloat16, float16, or None"),
            ("optimizer", 3, "a dict"),
        ],
    )
    def test_a_wrong_value_is_named_with_its_range(self, name, value, expected):
        (fault,) = faults(**{name: value})
        assert f"{name}={value!r}" in fault
        assert expected in fault.partition(": ")[2]

    def test_all_faults_come_at_once(self):
        found = faults(**{"steps": -3, "accumulate": 0, "optimizer.b1": 2.0, "optimizer.schedule": "x", "mesh.data": 0})
        assert [fault.split("=")[0].strip() for fault in found] == [
            "steps",
            "accumulate",
            "optimizer.schedule",
            "optimizer.b1",
            "mesh.data",
        ]

    def test_unknown_and_missing_settings_are_named(self):
        config = toy_config(**{"optimizer.learning_rat": 1.0})
        del config.optimizer.b1
        with pytest.raises(ValueError, match=r"optimizer\.learning_rat is not.*optimizer\.learning_rate") as caught:
            check_recipe(config, TrainingRecipe)
        assert "optimizer.b1 is missing" in str(caught.value)

    def test_numbers_of_numpy_are_numbers(self):
        check_recipe(toy_config(steps=np.int64(3), **{"optimizer.learning_rate": np.float64(0.1)}), TrainingRecipe)
        assert faults(**{"optimizer.learning_rate": np.float32(-1)})

    def test_settings_of_any_type_are_finite(self):
        class Open(TrainingRecipe):
            schedule: dict

        found = faults(Open, **{"schedule": {"a": {"start": np.nan}, "betas": (0.1, np.inf), "end": 1.0, "0": 1.0}})
        assert [fault.split("=")[0].strip() for fault in found] == ["schedule.a.start", "schedule.betas"]


def test_training_checks_its_settings_before_it_creates_the_directory(tmp_path):
    config = toy_config(steps=-3)
    with pytest.raises(ValueError, match="steps=-3"):
        train(ToyTask(config), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
