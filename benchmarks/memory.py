"""Peak memory of a training step, for what the backward pass computes again, beside diffusers' U-Net.

  python benchmarks/memory.py          # Stable Diffusion 1.5 in bfloat16, 256 px, batch 32, on a GPU
  python benchmarks/memory.py --small  # widths 320 and 640 in float32, batch 2, on a CPU

Each variant is a process of its own, since none gives its memory back; it does two steps of `train_step.py`. On a GPU
the number is what the framework's allocator held at most, on a CPU what the process held at most beyond its size before
the networks were made, compilation included. The floor is parameters, moments, average and gradients in float32.
"""

import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from networks import ROOT, cached_examples, make_base
from reporting import print_rows
from timing import Row, import_peer
from train_step import COMPARED, Stepping

from rewardedit_jax.params import abstract_params

# Variant → `compute.remat`. PyTorch's is compared with the one that computes as much again.
_OURS = {
    "rewardedit_jax": "none",
    "rewardedit_jax, recomputing all but products": "all_but_products",
    "rewardedit_jax, recomputing": "all",
}
_THEIRS = {"PyTorch": "none", "PyTorch, recomputing": "all"}
_GIB = 2**30


def measure(variant: str, size: str) -> float:
    """GiB at most during two steps of a variant in this process."""
    before = _resident()
    base = make_base(size, "bfloat16" if size == "full" else "float32", remat=_OURS.get(variant, "none"))
    side, batch = COMPARED[size]
    examples = cached_examples(base, batch, side)
    if variant in _OURS:
        run = Stepping(base).on(examples)
    else:
        peer, _ = import_peer("diffusers")
        unet = peer.make_unet(base.unet.config)
        if _THEIRS[variant] == "all":
            unet.enable_gradient_checkpointing()
        run = peer.training_step(unet, examples, base.dtype, compiled=False)
    for _ in range(2):  # the first creates the optimizer's state in PyTorch
        jax.block_until_ready(run())
    return _peak(variant in _OURS, before) / _GIB


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak(ours: bool, before: int) -> int:
    if jax.default_backend() == "cpu":
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if ours:
        return jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    return import_peer("diffusers")[0].torch.cuda.max_memory_allocated()


def rows(size: str) -> Iterator[Row]:
    peer, reason = import_peer("diffusers")
    floor = _floor(size)
    found: dict[str, float] = {}
    for variant, remat in (_OURS if peer is None else {**_OURS, **_THEIRS}).items():
        found[variant] = _apart(variant, size)
        ours = found[next(name for name in _OURS if _OURS[name] == remat)]
        yield Row(f"memory of a step: {variant}", found[variant], "GiB", None, found[variant] / ours, floor)
    if peer is None:
        yield Row("memory of a step: PyTorch", note=reason)


def _floor(size: str) -> float:
    parameters = sum(
        math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(make_base(size, "float32").unet))
    )
    return 5 * 4 * parameters / _GIB


def _apart(variant: str, size: str) -> float:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    program = f"import memory; print(memory.measure({variant!r}, {size!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{variant}: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    print_rows(__doc__, rows)
