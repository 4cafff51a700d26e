"""Tests `training/checkpoints.py`: states that come back, and checkpoints that are damaged."""

import shutil
import threading

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from toy_task import ToyTask, toy_config

from rewardedit_jax.sharding import infer_shardings, make_mesh
from rewardedit_jax.training.checkpoints import Checkpoints, DamagedCheckpoint, with_shardings
from rewardedit_jax.training.inventory import take_inventory
from rewardedit_jax.training.step import create_state


def a_state(optimizer=None, ema=True, **changes):
    params = ToyTask(toy_config()).init(jax.random.key(0)) | changes
    return create_state(params, optimizer or optax.adamw(1.0), ema)


def save(checkpoints, state, step):
    state = state.replace(step=np.int32(step))
    checkpoints.save(state, take_inventory(state)[0])


def described(state):
    mesh = make_mesh(**toy_config().mesh)
    abstract = jax.eval_shape(lambda: state)
    return with_shardings(abstract, infer_shardings(abstract, ToyTask.partition_rules, mesh))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A working directory with checkpoints of steps 1, 2 and 3, of which two were kept."""
    workdir = tmp_path_factory.mktemp("saved")
    with Checkpoints(workdir, keep=2) as checkpoints:
        for step in (1, 2, 3):
            save(checkpoints, a_state(), step)
    return workdir


def test_newest_state_comes_back_with_its_types(saved):
    with Checkpoints(saved, keep=2) as checkpoints:
        assert checkpoints.latest() == 3
        state = checkpoints.restore(described(a_state()))
    expected = a_state().replace(step=np.int32(3))
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_on_an_accelerator_the_step_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    """On a CPU it waits, as the files are written from the memory of the state."""
    disk, finalize = threading.Event(), ocp.StandardCheckpointHandler.finalize

    def slow(self, directory):
        assert disk.wait(60)
        finalize(self, directory)

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "finalize", slow)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        save(checkpoints, a_state(), 1)
        assert [".orbax-checkpoint-tmp" in name for name in steps_in(tmp_path)] == [True]
        disk.set()
        assert checkpoints.latest() == 1


def test_only_the_newest_are_kept(saved):
    assert sorted(p.name for p in (saved / "checkpoints").iterdir() if p.name.isdigit()) == ["2", "3"]


def test_state_of_another_shape_is_refused(saved):
    wider = {"features": {"kernel": np.zeros((4, 32), np.float32), "bias": np.zeros(16, np.float32)}}
    with (
        Checkpoints(saved, keep=2) as checkpoints,
        pytest.raises(ValueError, match=r"checkpoint 3 .*\(config\.json\)") as error,
    ):
        checkpoints.restore(described(a_state(**wider)))
    assert "params/features/kernel: saved float32 (4, 16), wanted float32 (4, 32)" in str(error.value)
    assert "ema/features/kernel" in str(error.value)
    assert "bias" not in str(error.value)


def test_state_of_another_optimizer_is_refused(saved):
    with Checkpoints(saved, keep=2) as checkpoints, pytest.raises(ValueError, match="wanted nothing") as error:
        checkpoints.restore(described(a_state(optax.sgd(1.0), ema=False)))
    assert "ema/features/kernel: saved float32 (4, 16), wanted nothing" in str(error.value)


@pytest.fixture
def copied(saved, tmp_path):
    """A copy of these checkpoints, to damage."""
    return shutil.copytree(saved, tmp_path / "copied")


def steps_in(workdir):
    return sorted(entry.name for entry in (workdir / "checkpoints").iterdir())


def restored(workdir):
    with Checkpoints(workdir, keep=2) as checkpoints:
        return checkpoints.restore(described(a_state()))


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zeroed(file):
    """What a power cut leaves of a file whose length was written before its content."""
    file.write_bytes(bytes(file.stat().st_size))


def missing(file):
    file.unlink()


@pytest.mark.parametrize(
    ("name", "damage"),
    [("_METADATA", cut), ("_METADATA", missing), ("manifest.ocdbt", zeroed), ("d/*", cut), ("d/*", missing)],
)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(copied, monkeypatch, caplog, name, damage):
    logged = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: logged.append(text % values))
    for file in (copied / "checkpoints" / "3" / "state").glob(name):
        damage(file)
    with Checkpoints(copied, keep=2) as checkpoints:
        state = checkpoints.restore(described(a_state()))
        assert int(state.step) == checkpoints.latest() == 2
        assert steps_in(copied) == ["2", "3.damaged1"]
        save(checkpoints, a_state(), 3)  # its step is free again
        assert checkpoints.latest() == 3
    (line,) = (line for line in logged if "checkpoint 3 is damaged" in line)
    assert "3.damaged1" in line
    assert any("goes on from checkpoint 2" in line for line in logged)
    assert not [record for record in caplog.records if record.name == "asyncio"]  # a traceback for each array
    assert int(restored(copied).step) == 3


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """(working directory, state) of two checkpoints with an array that tensorstore keeps in a file of its own.

    Small ones lie in its database, whose checksums notice all damage.
    """
    workdir = tmp_path_factory.mktemp("large")
    numbers = np.random.default_rng(0).standard_normal((256, 256), np.float32)
    state = a_state(head={"hidden": {"kernel": numbers, "bias": np.zeros(256, np.float32)}}, ema=False)
    with Checkpoints(workdir, keep=2) as checkpoints:
        for step in (1, 2):
            save(checkpoints, state, step)
    return workdir, state


def flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [flipped, cut, zeroed, missing])
def test_damage_in_a_large_array_is_noticed(large, tmp_path, monkeypatch, damage):
    logged = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: logged.append(text % values))
    workdir, state = shutil.copytree(large[0], tmp_path / "large"), large[1]
    damage(max((workdir / "checkpoints" / "2").rglob("d/*"), key=lambda file: file.stat().st_size))
    with Checkpoints(workdir, keep=2) as checkpoints:
        assert int(checkpoints.restore(described(state)).step) == 1
    assert any("checkpoint 2 is damaged" in line for line in logged)
    if damage is flipped:
        assert any("1 arrays are not what was saved, the first is params/head/hidden/kernel" in line for line in logged)


def test_a_record_of_arrays_that_changed_is_damage(copied, monkeypatch):
    file = copied / "checkpoints" / "3" / "inventory" / "metadata"
    renamed = file.read_text().replace("params/head/out/bias", "params/head/out/bjas")
    file.write_text(renamed)
    assert int(restored(copied).step) == 2  # and is not taken for another model


def test_a_checkpoint_of_an_older_version_is_read_with_a_warning(copied, monkeypatch):
    logged = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: logged.append(text % values))
    shutil.rmtree(copied / "checkpoints" / "3" / "inventory")
    assert int(restored(copied).step) == 3
    assert ["checkpoint 3 has no digests" in line for line in logged] == [True]


def test_an_empty_checkpoint_is_damaged(copied):
    shutil.rmtree(copied / "checkpoints" / "3" / "state")
    assert int(restored(copied).step) == 2


def test_without_a_readable_checkpoint_all_are_named_and_kept(copied):
    for step in "23":
        zeroed(copied / "checkpoints" / step / "state" / "manifest.ocdbt")
    with pytest.raises(DamagedCheckpoint, match=r"(?s)no checkpoint in .*step 3: .*step 2: "):
        restored(copied)
    assert steps_in(copied) == ["2", "3"]


def test_a_state_that_is_not_finite_is_damaged(copied, monkeypatch):
    logged = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: logged.append(text % values))
    state = a_state()
    state.ema["head"]["out"]["bias"] = state.ema["head"]["out"]["bias"].at[1].set(np.nan)
    with Checkpoints(copied, keep=3) as checkpoints:
        save(checkpoints, state, 4)
    assert int(restored(copied).step) == 3
    assert any("ema/head/out/bias" in line for line in logged)


def test_a_checkpoint_of_another_model_is_not_damaged(copied):
    with Checkpoints(copied, keep=2) as checkpoints, pytest.raises(ValueError, match="another model") as error:
        checkpoints.restore(described(a_state(ema=False)))
    assert not isinstance(error.value, DamagedCheckpoint)
    assert steps_in(copied) == ["2", "3"]
