"""Two batches as one, an example of each in turn: values, and that devices exchange nothing."""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
from paths import ROOT

from rewardedit_jax.bases.base import each_in_turn, in_turns

# On devices of its own: the number of collectives in a program that joins two divided batches and parts them again.
COUNT = """
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from hlo_text import Program
from program_costs import collectives
from rewardedit_jax.bases.base import each_in_turn, in_turns

batch = NamedSharding(jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,)), P("data"))
described = jax.ShapeDtypeStruct((8, 16), jnp.float32)
for join, part in ((in_turns, each_in_turn), (lambda a, b: jnp.concatenate([a, b]), lambda x: jnp.split(x, 2))):
    step = jax.jit(lambda a, b: part(jnp.sin(join(a, b))), in_shardings=batch, out_shardings=batch)
    print(len(collectives(Program.parse(step.lower(described, described).compile().as_text()))))
"""


def test_examples_stand_in_turns():
    first, second = jnp.arange(6).reshape(3, 2), -jnp.arange(6).reshape(3, 2)
    joined = in_turns(first, second)
    np.testing.assert_array_equal(joined[:, 1], [1, -1, 3, -3, 5, -5])
    for found, expected in zip(each_in_turn({"x": joined}), (first, second), strict=True):
        np.testing.assert_array_equal(found["x"], expected)


def test_devices_exchange_nothing():
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    run = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True, env=environment)
    in_turns_moves, one_behind_the_other_moves = map(int, run.stdout.split())
    assert in_turns_moves == 0 < one_behind_the_other_moves
