"""Losses and gradients of a task on meshes of simulated devices, in a process of their own.

The state, the optimizer and checkpoints on meshes are the same for all tasks: `training/test_distributed.py`.
"""

import json
import os
import subprocess
import sys

from paths import ROOT

# Parameters are drawn, as layers that start at zero hide the gradients of those before them.
_WORKER = """
import importlib, json, sys
import jax, numpy as np
from jax.sharding import Mesh
from rewardedit_jax.sharding import infer_shardings, place
from rewardedit_jax.training.loop import global_batch

module, function, arguments, meshes = json.loads(sys.argv[1])
task, params = getattr(importlib.import_module(module), function)(*arguments)
batch, rng = next(task.batches(0)), jax.random.key(0)
step = jax.jit(jax.value_and_grad(lambda params, batch: task.loss(params, batch, rng)[0].mean()))
found = {}
for name, sizes in meshes.items():
    count = sizes[0] * sizes[1] * sizes[2]
    mesh = Mesh(np.array(jax.devices()[:count]).reshape(sizes), ("data", "fsdp", "tensor"))
    placed = place(params, infer_shardings(params, task.partition_rules, mesh))
    with jax.set_mesh(mesh):
        loss, gradient = step(placed, global_batch(batch, mesh=mesh))
    found[name] = [float(loss), *(float(np.linalg.norm(x)) for x in jax.tree.leaves(jax.device_get(gradient)))]
print(json.dumps(found))
"""


def loss_and_norms(make, arguments, meshes, devices):
    """Mesh → the loss, and the norm of the gradient of each parameter.

    Args:
      make: a function at the top of a module of the tests: arguments → (task, parameters).
      arguments: what JSON can hold.
      meshes: name → number of devices along data, fsdp and tensor.
    """
    folders = {str(ROOT / "tests"), str(ROOT), os.path.dirname(sys.modules[make.__module__].__file__)}
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(folders),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
    }
    described = json.dumps([make.__module__.rpartition(".")[2], make.__name__, arguments, meshes])
    command = [sys.executable, "-c", _WORKER, described]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
