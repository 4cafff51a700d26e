"""The first optimizer step of every recipe's `:debug` variant gives the stored loss and norms.

A change that should not alter the training is checked by this test; a change that should alter it renews the numbers:

  python tests/training/test_golden_steps.py    # writes tests/references/golden_steps.json; commit it with the reason

On one machine the step is deterministic, so that `git diff` after a renewal shows any change of a bit. Other CPUs add in
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

ROOT = Path(__file__).parents[2]
STORED = ROOT / "tests" / "references" / "golden_steps.json"
RECIPES = ("autoencoder", "edit_reward", "ip2p", "reward_ip2p")
NUMBERS = ("loss", "grad_norm", "param_norm", "update_norm")
RTOL = 1e-4
RENEW = "python tests/training/test_golden_steps.py"


def first_step(recipe: str, folder: Path) -> dict[str, float]:
    """The numbers of the first step from seed 0, from the metrics.jsonl of `launch/train.py`."""
    workdir = folder / recipe
    command = [sys.executable, ROOT / "launch" / "train.py", "--config", f"{ROOT / 'configs' / recipe}.py:debug"]
    settings = {
        "seed": 0,
        "steps": 1,
        "data.root": folder / "data",
        "optimizer.warmup_steps": 0,  # with a warm-up the first learning rate is 0, and so is the update
    }
    arguments = [f"--config.{name}={value}" for name, value in settings.items()]
    # One device, whatever the machine: a mesh adds in another order.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": ""}
    done = subprocess.run(
        [*map(str, command), f"--workdir={workdir}", *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    (record,) = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {name: record[name] for name in NUMBERS}


def test_every_recipe_has_stored_numbers():
    assert {file.stem for file in (ROOT / "configs").glob("*.py")} == set(RECIPES)
    assert json.loads(STORED.read_text()).keys() == set(RECIPES)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_first_step_is_the_stored_one(recipe, tmp_path):
    stored, found = json.loads(STORED.read_text())[recipe], first_step(recipe, tmp_path)
    advice = f"the first step of configs/{recipe}.py:debug changed. If that is intended, renew the numbers: {RENEW}"
    np.testing.assert_allclose([found[n] for n in NUMBERS], [stored[n] for n in NUMBERS], rtol=RTOL, err_msg=advice)
    assert min(found.values()) > 0  # a step that changes nothing would agree with anything


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        numbers = {recipe: first_step(recipe, Path(folder)) for recipe in RECIPES}
    STORED.write_text(json.dumps(numbers, indent=2) + "\n")
    print(STORED.read_text(), end="")
