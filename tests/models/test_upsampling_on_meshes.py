"""Upsampling with a divided kernel: devices gather the kernel, and never the batch."""

import os
import subprocess
import sys

import pytest
from paths import ROOT

# On devices of its own: prints the shapes that are gathered, in the forward pass and in the gradient.
PROGRAM = """
import re, sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from rewardedit_jax.models import unet_blocks
from rewardedit_jax.sharding import batch_sharding, make_mesh

if sys.argv[1] == "unconstrained":
    unet_blocks.shard_batch_axis = lambda x: x
mesh = make_mesh(data=2, fsdp=2)
layer = unet_blocks.Upsample()
x = jax.ShapeDtypeStruct((8, 16, 16, 64), jnp.float32, sharding=batch_sharding(mesh))
divided = lambda leaf: NamedSharding(mesh, P(None, None, None, "fsdp") if leaf.ndim == 4 else P())
shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
params = jax.tree.map(lambda leaf: leaf.update(sharding=divided(leaf)), shapes)
loss = lambda params, x: (layer.apply(params, x) ** 2).sum()
with jax.set_mesh(mesh):
    for function in (layer.apply, jax.grad(loss, argnums=(0, 1))):
        text = jax.jit(function).lower(params, x).compile().as_text()
        print(*re.findall(r"f32(\\[[\\d,]+\\])\\S* all-gather\\(", text))
"""


@pytest.mark.parametrize(("placement", "gathered"), [("constrained", "[3,3,64,64]"), ("unconstrained", "[8,32,32,64]")])
def test_what_is_gathered(placement, gathered):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    command = [sys.executable, "-c", PROGRAM, placement]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    forward, gradient = (set(line.split()) for line in run.stdout.splitlines())
    assert forward == gradient == {gathered}
