"""A saved editor whose scheduler file asks for what the chosen sampler ignores, has or lacks."""

import json

import jax
import numpy as np
import pytest
from tiny_editors import picture, tiny_editor

from rewardedit_jax import Editor
from rewardedit_jax.diffusion.sampler_settings import IgnoredSettingWarning


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("editor")
    tiny_editor().save(folder)
    return folder


@pytest.fixture
def load(directory):
    """Loads the editor with settings added to its scheduler file."""
    path = directory / "scheduler" / "scheduler_config.json"
    before = path.read_text()

    def with_settings(**settings):
        path.write_text(json.dumps(json.loads(before) | settings))
        return Editor.load(directory)

    yield with_settings
    path.write_text(before)


@pytest.fixture
def tables(monkeypatch):
    """The sampler table of every batch; nothing else of an edit's computation depends on the scheduler file."""
    tables = []

    def edit_batch(base, params, inputs, table, *_):
        tables.append(table)
        return np.zeros_like(inputs.source)

    monkeypatch.setattr("rewardedit_jax.editing.editor.edit_batch", edit_batch)
    return tables


def edit(editor, sampler, images):
    texts = ["make the red circle blue"] * len(images)
    editor.edit(images, texts, steps=3, sampler=sampler, resolution=None, batch_size=1)


def test_ignored_settings_sample_as_without_and_warn_once_in_each_call(load, tables):
    images = [picture(0), picture(1)]
    edit(load(), "ddim", images)
    editor = load(use_karras_sigmas=True, solver_order=3)
    for _ in range(2):
        with pytest.warns(IgnoredSettingWarning, match=r"'ddim'.*use_karras_sigmas=True.*solver_order=3") as caught:
            edit(editor, "ddim", images)
        assert len(caught) == 1
    assert len(tables) == 6
    for table in tables[1:]:
        jax.tree.map(np.testing.assert_array_equal, table, tables[0])


def test_settings_that_a_sampler_reads_reach_its_steps(load, tables):
    for settings in ({}, {"use_karras_sigmas": True}):
        edit(load(**settings), "euler", [picture()])
    assert (tables[0].steps.timestep[1:] != tables[1].steps.timestep[1:]).any()


def test_settings_that_a_sampler_lacks_are_refused_before_images_are_read(load):
    editor = load(algorithm_type="sde-dpmsolver++")
    with pytest.raises(ValueError, match=r"algorithm_type='sde-dpmsolver\+\+'.*'dpmpp_2m'.*ddim"):
        edit(editor, "dpmpp_2m", ["missing.png"])
