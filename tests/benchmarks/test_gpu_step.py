"""The training step compiled for a GPU that is not here."""

import importlib.util
import os
import subprocess
import sys

import pytest
from gpu_step import describe
from hlo_text import Program
from paths import ROOT
from tiny_models import get_config

from rewardedit_jax.training.compiled_step import StepMemory

PLUGIN = "jax_cuda13_plugin"
COMMAND = [sys.executable, ROOT / "benchmarks" / "gpu_step.py", "--config", ROOT / "configs" / "reward_ip2p.py:debug"]
# A kernel of each kind, in XLA's notation.
TEXT = """HloModule step, is_scheduled=true

%transposing (p: f32[4,8]) -> f32[8,4] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %turned = f32[8,4]{1,0} transpose(%p), dimensions={1,0}
}

%adding (q: f32[8,4]) -> f32[8,4] {
  %q = f32[8,4]{1,0} parameter(0)
  ROOT %twice = f32[8,4]{1,0} add(%q, %q)
}

ENTRY %main (x: f32[4,8], w: bf16[4,4]) -> f32[8,4] {
  %x = f32[4,8]{1,0} parameter(0)
  %w = bf16[4,4]{1,0} parameter(1)
  %a = f32[8,4]{1,0} fusion(%x), kind=kInput, calls=%transposing
  %b = f32[8,4]{1,0} custom-call(%a, %w), custom_call_target="__cublas$gemm"
  %c = f32[8,4]{1,0} custom-call(%b, %w), custom_call_target="__cudnn$convForward"
  %d = f32[8,4]{1,0} custom-call(%c), custom_call_target="__cudnn$fmhaSoftmax"
  %e = f32[8,4]{1,0} fusion(%d), kind=kLoop, calls=%adding
  ROOT %f = f32[8,4]{1,0} copy(%e)
}
"""


def test_traffic_by_kind_of_kernel():
    config = get_config("reward_ip2p", "debug")
    config.batch_size, config.accumulate = 4, 3
    lines = list(describe(config, Program.parse(TEXT), StepMemory(3 * 2**30, 2**30, 0)))
    assert lines[:3] == [
        "examples     12 a step, in 3 micro-batch(es)",
        "memory       4.00 GiB per device, 1.00 GiB of them temporary (3.00 GiB kept)",
        "traffic      0.0 GB, at least 0.0 ms\n",
    ]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[5:]] == [
        *("matrix products", "convolutions"),  # these read the weights too
        *("transposes", "attention", "other loops", "copies"),
    ]


@pytest.mark.skipif(importlib.util.find_spec(PLUGIN) is not None, reason="the plugin is installed")
def test_without_the_plugin_it_says_what_to_install():
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("JAX has no plugin for CUDA here: pip install jax-cuda13-plugin==")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(PLUGIN) is None, reason=f"{PLUGIN} is not installed")
def test_the_update_is_done_in_place(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([*COMMAND, "--hlo", tmp_path / "hlo"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    moved = {kind: float(size) for kind, size, _ in (row[2:-2].split(" | ") for row in done.stdout.splitlines()[6:])}
    assert {"convolutions", "matrix products", "reductions"} <= moved.keys()
    program = Program.parse((tmp_path / "hlo").read_text())
    copied = sum(v.nbytes for i, _ in program.executed() if i.opcode == "copy" for v in i.values)
    updated = sum(v.nbytes for v in program.values[program.computations[program.entry][-1].name])
    assert copied < 0.1 * updated  # a third, where the update also sums norms
