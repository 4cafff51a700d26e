"""With divided kernels, devices exchange kernels and never activations of the batch."""

import json
import os
import subprocess
import sys

import pytest
from paths import ROOT

# On devices of its own: prints the shapes that are gathered or summed, in the forward pass and in the gradient.
PROGRAM = """
import json, re, sys
import jax, jax.numpy as jnp
from rewardedit_jax.models import layers, qformer, unet, unet_blocks
from rewardedit_jax.sharding import batch_sharding, infer_shardings, make_mesh

if sys.argv[2] == "unconstrained":
    layers.shard_batch_axis = unet_blocks.shard_batch_axis = lambda x: x
if sys.argv[1] == "upsampling":
    network, shape, rules = unet_blocks.Upsample(), (8, 16, 16, 64), unet.PARTITION_RULES
else:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "encoder_hidden_size": 32}
    config = qformer.QFormerConfig(**sizes, num_attention_heads=4, cross_attention_frequency=2, num_queries=24)
    network, shape, rules = qformer.QFormer(config), (8, 40, 32), qformer.PARTITION_RULES
mesh = make_mesh(data=2, fsdp=2)
x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=batch_sharding(mesh))
params = {"up_blocks_0": {"upsamplers_0": jax.eval_shape(network.init, jax.random.key(0), x)["params"]}}
shardings = infer_shardings(params, rules, mesh)
params = jax.tree.map(lambda leaf, sharding: leaf.update(sharding=sharding), params, shardings)
apply = lambda params, x: network.apply({"params": params["up_blocks_0"]["upsamplers_0"]}, x)
loss = lambda params, x: (apply(params, x) ** 2).sum()
kernels = [list(leaf.shape) for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
exchanged = []
with jax.set_mesh(mesh):
    for function in (apply, jax.grad(loss, argnums=(0, 1))):
        text = jax.jit(function).lower(params, x).compile().as_text()
        exchanged += re.findall(r"f32\\[([\\d,]+)\\]\\S* all-(?:gather|reduce)\\(", text)
print(json.dumps({"kernels": kernels, "exchanged": [list(map(int, dims.split(","))) for dims in exchanged]}))
"""


def exchanged(network, placement):
    """Shapes of several axes that devices exchange, and those of the kernels."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    command = [sys.executable, "-c", PROGRAM, network, placement]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(run.stdout)
    return [shape for shape in found["exchanged"] if len(shape) > 1], found["kernels"]


@pytest.mark.parametrize(("network", "activation"), [("upsampling", [8, 32, 32, 64]), ("qformer", [4 * 24, 64])])
def test_devices_exchange_kernels_alone(network, activation):
    shapes, kernels = exchanged(network, "constrained")
    assert shapes
    assert all(shape in kernels for shape in shapes)
    shapes, _ = exchanged(network, "unconstrained")
    assert activation in shapes
