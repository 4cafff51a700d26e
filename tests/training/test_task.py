"""Tests `training/task.py`: rules on parameter paths."""

import jax
import optax
import pytest
from toy_task import ToyTask, toy_config

from rewardedit_jax.params import find_rule, merge_params, path_of, split_params
from rewardedit_jax.training.step import create_state
from rewardedit_jax.training.task import Task

PARAMS = {"unet": {"conv_in": {"kernel": 1, "bias": 2}, "mid": {"kernel": 3}}, "vae": {"kernel": 4}}


def test_first_rule_that_matches_the_whole_path_decides():
    rules = (("unet/conv.*", "a"), ("unet/.*", "b"), ("vae", "c"))
    assert find_rule(rules, "unet/conv_in/kernel") == ("unet/conv.*", "a")
    assert find_rule(rules, "unet/mid/kernel") == ("unet/.*", "b")
    assert find_rule(rules, "vae/kernel") is None  # "vae" matches only a part of it


def test_a_network_can_train_in_part():
    trained, frozen = split_params(PARAMS, (("unet/conv_in/.*", True), (".*", False)))
    assert trained == {"unet": {"conv_in": {"kernel": 1, "bias": 2}}}
    assert frozen == {"unet": {"mid": {"kernel": 3}}, "vae": {"kernel": 4}}
    assert merge_params(trained, frozen) == PARAMS


def test_everything_may_train():
    trained, frozen = split_params(PARAMS, ((".*", True),))
    assert (trained, frozen) == (PARAMS, {})
    assert merge_params(trained, frozen) == PARAMS


def test_uncovered_parameters_are_all_named():
    with pytest.raises(ValueError, match=r"unet/mid/kernel\n.*vae/kernel") as error:
        split_params(PARAMS, (("unet/conv_in/.*", True),))
    assert "conv_in" not in str(error.value)


def test_something_must_train():
    with pytest.raises(ValueError, match="nothing would train"):
        split_params(PARAMS, ((".*", False),))


def test_moments_and_averages_share_their_parameters_path():
    task = ToyTask(toy_config())
    params = jax.eval_shape(task.init, jax.random.key(0))
    state = jax.eval_shape(lambda p: create_state(p, optax.adamw(1.0), True), params)
    paths = [path_of(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert paths.count("head/out/kernel") == 4  # parameter, two moments, average
    assert paths.count("") == 2  # the step counts of the state and of the optimizer


def test_toy_task_is_a_task():
    assert isinstance(ToyTask(toy_config()), Task)
    assert not isinstance(object(), Task)
