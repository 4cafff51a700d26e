"""Scheduler files of pipeline directories: what is wrong with one is said with its path."""

import json

import pytest
from ml_collections import ConfigDict

from rewardedit_jax.bases.base import read_process, recipe_process
from rewardedit_jax.diffusion.ddpm import DDPM
from rewardedit_jax.weights.files import WeightFileError


@pytest.fixture
def write(tmp_path):
    """Writes a scheduler file; returns its path."""

    def to_file(settings):
        path = tmp_path / "scheduler" / "scheduler_config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(settings))
        return path

    return to_file


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"beta_start": "0.1"}, "beta_start='0.1'"),
        ({"num_train_timesteps": 0}, "num_train_timesteps=0"),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
        ([], "expected"),
    ],
)
def test_faults_name_file_and_setting(write, tmp_path, settings, named):
    path = write(settings)
    with pytest.raises(WeightFileError) as caught:
        read_process(tmp_path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


def test_settings_of_samplers_do_not_stop_a_training(write, tmp_path):
    write({"beta_end": 0.012, "use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++", "timestep_spacing": "x"})
    process = recipe_process(ConfigDict({"schedule": {"beta_start": 0.001}}), tmp_path)
    assert (process.beta_start, process.beta_end) == (0.001, 0.012)


def test_faults_of_a_recipe_name_its_field(write, tmp_path):
    write({})
    assert recipe_process(ConfigDict({"schedule": {}}), tmp_path) == DDPM()
    for schedule in ({"beta_end": -1.0}, {"beta_schedule": "linear", "beta_end": -1.0}):
        with pytest.raises(ValueError, match=r"config\.schedule.*beta_end=-1\.0"):
            recipe_process(ConfigDict({"schedule": schedule}), tmp_path)
