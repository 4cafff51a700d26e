"""Steps of a task on meshes of simulated devices, in a process of their own.

The training loop and checkpoints on meshes are the same for all tasks: `training/test_distributed.py`.
"""

import json
import os
import subprocess
import sys
from functools import partial
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from paths import ROOT

from rewardedit_jax.sharding import global_batch, infer_shardings, place
from rewardedit_jax.training.compiled_step import compile_step
from rewardedit_jax.training.optimizer import make_optimizer
from rewardedit_jax.training.step import create_state


def run_on_meshes(make, arguments, meshes, devices, steps=10):
    """Mesh → {"losses": of the steps, "gradients": the norm of that of each parameter in the first step}.

    All parameters train, so that all partition rules take part.

    Args:
      make: a function at the top of a module of the tests: arguments → (task, config, parameters). Parameters are
        drawn, as layers that start at zero hide the gradients of those before them.
      arguments: what JSON can hold.
      meshes: name → number of devices along data, fsdp and tensor.
    """
    folders = {str(ROOT / "tests"), str(ROOT), os.path.dirname(sys.modules[make.__module__].__file__)}
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(folders),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
    }
    module = make.__module__.rpartition(".")[2]
    program = f"import mesh_steps, {module}; mesh_steps.print_steps({module}.{make.__name__})"
    command = [sys.executable, "-c", program, json.dumps([arguments, meshes, steps])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_same_steps(found, expected, mesh, rtol=1e-4):
    """Two results of `run_on_meshes` are equal but for the order of sums; `rtol` is that of gradients."""
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-5, err_msg=mesh)
    norms = np.array(expected["gradients"])
    np.testing.assert_allclose(found["gradients"], norms, rtol=rtol, atol=1e-5 * norms.max(), err_msg=mesh)


def print_steps(make):
    """The process of `run_on_meshes`."""
    arguments, meshes, steps = json.loads(sys.argv[1])
    task, config, params = make(*arguments)
    batches = list(islice(task.batches(0), steps))
    print(json.dumps({name: _steps(task, config, params, batches, sizes) for name, sizes in meshes.items()}))


def _steps(task, config, params, batches, sizes):
    mesh = Mesh(np.array(jax.devices()[: np.prod(sizes)]).reshape(sizes), ("data", "fsdp", "tensor"))
    optimizer = optax.chain(_first_norms(), make_optimizer(config.optimizer, len(batches)))
    create = partial(create_state, optimizer=optimizer, ema=config.optimizer.ema_decay is not None)
    shardings = infer_shardings(jax.eval_shape(create, params), task.partition_rules, mesh)
    # The step donates its state: each mesh gets copies of the parameters.
    state = jax.jit(create, out_shardings=shardings)(place(params, shardings.params))
    step = compile_step(task, config, optimizer, mesh, shardings, {})
    losses = []
    for batch in batches:
        state, metrics = step(state, {}, global_batch(batch, mesh=mesh))
        losses.append(float(metrics["loss"]))
    return {"losses": losses, "gradients": np.asarray(state.opt_state[0]).tolist()}


def _first_norms():
    """A transformation that changes nothing, and whose state has the norms of the first gradients."""

    def init(params):
        return jnp.full(len(jax.tree.leaves(params)), -1.0)

    def update(grads, norms, params=None):
        found = jnp.stack([optax.tree.norm(leaf) for leaf in jax.tree.leaves(grads)])
        return grads, jnp.where(norms < 0, found, norms)

    return optax.GradientTransformation(init, update)
