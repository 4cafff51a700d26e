"""What the editing task refuses or warns of before its model and its data are read."""

import numpy as np
import pytest
from tiny_models import get_config

from rewardedit_jax.data.records import EditRecord
from rewardedit_jax.editing.task import EditingTask

INSTRUCTIONS = ("turn the left shape red", "make it snow")


class Edits:
    def __len__(self):
        return len(INSTRUCTIONS)

    def instructions(self):
        return INSTRUCTIONS

    def __getitem__(self, index):
        picture = np.zeros((8, 8, 3), np.uint8)
        return EditRecord(str(index), INSTRUCTIONS[index], picture, picture, np.ones(3, np.float32), ("", "", ""))


class TaskOfEdits(EditingTask):
    def open_source(self, data):
        return Edits()


def recipe(**changes):
    config = get_config("reward_ip2p", "debug")
    config.data.name = "triplets"
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize("flip", [True, False])
def test_flips_of_instructions_that_name_a_side_are_logged(flip, caplog):
    TaskOfEdits(recipe(**{"data.flip": flip}))
    assert ("1 of the 2 instructions" in caplog.text and INSTRUCTIONS[0] in caplog.text) == flip


def test_a_resolution_that_the_networks_cannot_halve_is_refused():
    with pytest.raises(ValueError, match=r"data\.resolution=36: expected a multiple of 8"):
        TaskOfEdits(recipe(**{"data.resolution": 36}))


def test_the_recipe_is_checked_before_the_data_is_opened(monkeypatch):
    monkeypatch.setattr(TaskOfEdits, "open_source", lambda *_: pytest.fail("the data was opened"))
    with pytest.raises(ValueError, match=r"conditioning_dropout=0\.5"):
        TaskOfEdits(recipe(conditioning_dropout=0.5))
