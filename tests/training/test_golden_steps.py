"""The first optimizer steps of every recipe's `:debug` variant give the stored losses and norms.

This finds changes that alter the training without intention. After an intended one, renew the numbers and commit them
with the reason:

  PYTHONPATH=tests python tests/training/test_golden_steps.py    # writes tests/references/golden_steps.json

A step is deterministic on one machine, so that `git diff` after a renewal shows any change of a bit. Other CPUs add in
another order, hence the tolerance.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from paths import REFERENCES, ROOT

STORED = REFERENCES / "golden_steps.json"
RECIPES = ("autoencoder", "edit_reward", "ip2p", "llava", "reward_ip2p", "reward_smartedit", "smartedit")
NUMBERS = ("loss", "grad_norm", "param_norm", "learning_rate")
RTOL = 1e-4
RENEW = "PYTHONPATH=tests python tests/training/test_golden_steps.py"


def first_steps(recipe: str, folder: Path) -> dict[str, list[float]]:
    """The numbers of two steps from seed 0, from the metrics.jsonl of `launch/train.py`.

    Two, as layers that start at zero hide the gradients of those before them in the first step.
    """
    workdir = folder / recipe
    command = [sys.executable, ROOT / "launch" / "train.py", "--config", f"{ROOT / 'configs' / recipe}.py:debug"]
    settings = {
        "seed": 0,
        "steps": 2,
        "optimizer.warmup_steps": 0,  # with a warm-up the first learning rate is 0, and nothing changes
    }
    if recipe != "llava":  # whose pictures are not stored
        settings["data.root"] = folder / "data"
    arguments = [f"--config.{name}={value}" for name, value in settings.items()]
    # One device, whatever the machine: a mesh adds in another order.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(
        [*map(str, command), f"--workdir={workdir}", *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    return {name: [record[name] for record in records] for name in NUMBERS}


def test_every_recipe_has_stored_numbers():
    assert {file.stem for file in (ROOT / "configs").glob("*.py")} == set(RECIPES)
    assert json.loads(STORED.read_text()).keys() == set(RECIPES)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_first_steps_are_the_stored_ones(recipe, tmp_path):
    stored, found = json.loads(STORED.read_text())[recipe], first_steps(recipe, tmp_path)
    for name in NUMBERS:
        advice = f"{name} of configs/{recipe}.py:debug changed. If that is intended, renew the numbers: {RENEW}"
        np.testing.assert_allclose(found[name], stored[name], rtol=RTOL, err_msg=advice)
        assert min(found[name]) > 0  # nothing is measured where nothing changes
    assert (tmp_path / recipe / "model").is_dir()  # the recipe as it stands leaves a model


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        numbers = {recipe: first_steps(recipe, Path(folder)) for recipe in RECIPES}
    STORED.write_text(json.dumps(numbers, indent=2) + "\n")
    print(STORED.read_text(), end="")
