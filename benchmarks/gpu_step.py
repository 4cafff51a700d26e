"""The training step of a recipe, compiled for an NVIDIA H200 without one: memory, and the traffic of its kernels.

  pip install "jax-cuda13-plugin==$(python -c 'import jax; print(jax.__version__)')"
  python benchmarks/gpu_step.py --config configs/reward_ip2p.py --examples 16 --config.data.cache=any \\
    --config.compute.remat=none

The step is the trainer's own, on one GPU; data, weights and a GPU are not needed, as only shapes and types are. With a
cache (whose folder need not exist) it has neither the autoencoder nor the text encoder. Compilation takes minutes of a
core. On a GPU XLA tries which of several kernels is the fastest, so that a real run has others in places; nothing is
run here, and no time is measured.
"""

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax
from abstract_step import AbstractStep
from hlo_text import Instruction, Program
from jax._src import xla_bridge
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax.experimental import topologies
from ml_collections import ConfigDict
from program_costs import traffic

from rewardedit_jax.sharding import make_mesh
from rewardedit_jax.training.compiled_step import StepMemory, gib
from rewardedit_jax.training.recipe import read_recipe

_RATE = 4.8e12  # bytes per second of an H200's memory, by its data sheet
_CUDNN = (9, 19, 0)
_PLUGIN = f"jax-cuda13-plugin=={jax.__version__}"
# What XLA asks a device for: sizes of an H200, and versions of the libraries.
_H200 = f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {_RATE:.0f} l2_cache_size: 62914560
  clock_rate_ghz: 1.98 device_memory_size: 150754820096 shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: {_CUDNN[0]} minor: {_CUDNN[1]} patch: {_CUDNN[2]} }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "NVIDIA H200"
"""
_KINDS = {"convolution": "convolutions", "dot": "matrix products", "transpose": "transposes", "reduce": "reductions"}
_LIBRARIES = {"conv": "convolutions", "fmha": "attention", "cublas": "matrix products"}


def compiled_for_h200(config: ConfigDict) -> jax.stages.Compiled:
    """The step that the trainer compiles for a recipe, for one H200. Exits where JAX has no plugin for CUDA."""
    named = xla_bridge.canonicalize_platform
    with (
        # JAX takes "gpu" for a platform only where a device of it is present (github.com/jax-ml/jax/issues/23971), and
        # asks that device what cuDNN can do on it.
        mock.patch.object(xla_bridge, "canonicalize_platform", lambda name: "cuda" if name == "gpu" else named(name)),
        mock.patch.object(cudnn, "check_cudnn_version", return_value=_CUDNN[0] * 10_000 + _CUDNN[1] * 100 + _CUDNN[2]),
        mock.patch.object(cudnn, "check_compute_capability", lambda least: float(least) <= 9.0),
    ):
        try:
            described = topologies.get_topology_desc(platform="gpu", topology="1x1x1", target_config=_H200)
        except NotImplementedError:
            raise SystemExit(f"JAX has no plugin for CUDA here: pip install {_PLUGIN}") from None
        return AbstractStep.of(config, make_mesh(devices=described.devices)).lower("gpu", "cuda").compile()


def kind_of(program: Program, i: Instruction) -> str:
    """What a kernel mostly does."""
    if i.opcode == "custom-call":
        target = i.attribute(r'custom_call_target="([^"]*)"') or ""
        return next((kind for word, kind in _LIBRARIES.items() if word in target), target)
    if i.opcode != "fusion":
        return "copies" if i.opcode == "copy" else "other"
    inner = {one.opcode for one in program.computations[i.attribute(r"calls=%?([\w.\-]+)")]}
    return next((kind for opcode, kind in _KINDS.items() if opcode in inner), "other loops")


def describe(config: ConfigDict, program: Program, memory: StepMemory) -> Iterator[str]:
    """The lines that are printed for a compiled step, the last of them a table."""
    moved, kernels = Counter(), Counter()
    for instruction, size, times in traffic(program):
        kind = kind_of(program, instruction)
        moved[kind] += size * times
        kernels[kind] += times
    total = moved.total()
    yield f"examples     {config.batch_size * config.accumulate} a step, in {config.accumulate} micro-batch(es)"
    yield f"memory       {memory} ({gib(memory.kept)} kept)"
    yield f"traffic      {total / 1e9:.1f} GB, at least {1000 * total / _RATE:.1f} ms\n"
    yield "| kernels | GB | calls |"
    yield "|---|---|---|"
    for kind, size in moved.most_common():
        yield f"| {kind} | {size / 1e9:.1f} | {kernels[kind]} |"


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    # Matrix products by cuBLAS: without a GPU, the XLA of JAX 0.10 finds no tiles for Triton's.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_triton_gemm=false"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="recipe; further arguments have the form --config.field=value")
    parser.add_argument("--examples", type=int, help="examples of a micro-batch (default: the recipe's)")
    parser.add_argument("--hlo", type=Path, metavar="FILE", help="file to write the compiled program to")
    a, overrides = parser.parse_known_args()
    config = read_recipe(a.config, overrides)
    config.batch_size = a.examples or config.batch_size
    compiled = compiled_for_h200(config)
    text = compiled.as_text()
    if a.hlo:
        a.hlo.write_text(text)
    print("\n".join(describe(config, Program.parse(text), StepMemory.of(compiled))))


if __name__ == "__main__":
    main()
