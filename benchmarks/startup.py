"""Seconds from the start of a process to its first edit: with nothing compiled on disk, and again.

  python benchmarks/startup.py          # Stable Diffusion 1.5's sizes with random weights, 512 px, 30 steps
  python benchmarks/startup.py --small  # the shipped model of the shapes world, 32 px, beside diffusers' pipeline

Compiled are XLA's programs, and Python's sources to bytecode. The small run times `launch/edit.py`. The peer is a
process that loads the same directory into diffusers' pipeline and edits the same picture. The large run draws weights
in place of reading files of 4 GB.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from networks import ROOT
from PIL import Image
from reporting import print_rows
from timing import Row, import_peer

_INSTRUCTION, _STEPS = "make the red circle blue", "10"
_RANDOM = """
import edit_latency
from rewardedit_jax.startup import start_quickly
start_quickly()
edit_latency.edit(edit_latency.make_editor("full"), edit_latency.SETTINGS["full"], 1)()
"""
_PARTS = """
import sys, time
laps = [time.perf_counter()]
def lap(): laps.append(time.perf_counter())
from rewardedit_jax.startup import start_quickly
from rewardedit_jax import Editor
start_quickly(); lap()
editor = Editor.load("shapes"); lap()
for _ in range(2):
    editor.edit(sys.argv[1], sys.argv[2], steps=int(sys.argv[3])); lap()
print(*(after - before for before, after in zip(laps, laps[1:])))
"""
_PIPELINE = """
import sys
from diffusers import StableDiffusionInstructPix2PixPipeline
from PIL import Image
model, image, instruction, steps, out = sys.argv[1:]
pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(model)
pipeline(instruction, Image.open(image).convert("RGB"), num_inference_steps=int(steps)).images[0].save(out)
"""


def rows(size: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        Image.new("RGB", (32, 32), (90, 120, 60)).save(folder / "in.png")
        command, case = _random_editor(), "first edit, 512 px, 30 steps, random weights"
        if size != "full":
            command, case = _shipped_editor(folder), f"first edit, launch/edit.py, 32 px, {_STEPS} steps"
        first, again = _starts(command, folder / "cache", 3 if size == "small" else 1)
        yield Row(f"{case}: nothing compiled", first, "s")
        yield Row(f"{case}: again", statistics.median(again), "s", (min(again), max(again)))
        if size == "small":
            yield from _part_rows(folder)
            yield from _pipeline_rows(folder, first, statistics.median(again))


def _random_editor() -> Sequence[str]:
    return [sys.executable, "-c", _RANDOM]


def _shipped_editor(folder: Path) -> Sequence[str]:
    asked = {"--model": "shapes", "--image": folder / "in.png", "--instruction": _INSTRUCTION, "--steps": _STEPS}
    words = [str(word) for pair in asked.items() for word in pair]
    return [sys.executable, str(ROOT / "launch" / "edit.py"), *words, "--output", str(folder / "out.png")]


def _part_rows(folder: Path) -> Iterator[Row]:
    """What a start with everything compiled spends its time on."""
    command = [sys.executable, "-c", _PARTS, str(folder / "in.png"), _INSTRUCTION, _STEPS]
    _run(command, folder / "cache")  # compiles what the command has not
    imports, loading, first, second = map(float, _run(command, folder / "cache").split())
    parts = {"imports": imports, "loading the model": loading, "tracing and reading programs": first - second}
    for name, seconds in parts.items():
        yield Row(f"a second start: {name}", seconds, "s")


def _pipeline_rows(folder: Path, our_first: float, our_median: float) -> Iterator[Row]:
    peer, reason = import_peer("diffusers", "transformers")
    if peer is None:
        yield Row("first edit: diffusers", note=reason)
        return
    model = str(ROOT / "rewardedit_jax" / "pretrained" / "shapes")
    command = [sys.executable, "-c", _PIPELINE, model, folder / "in.png", _INSTRUCTION, _STEPS, folder / "theirs.png"]
    (folder / "peer").mkdir()  # without the bytecode that this package's starts have left
    first, again = _starts(list(map(str, command)), folder / "peer" / "cache", 3)
    median = statistics.median(again)
    yield Row("first edit, diffusers: nothing compiled", first, "s", ratio=first / our_first)
    yield Row("first edit, diffusers: again", median, "s", (min(again), max(again)), median / our_median)


def _starts(command: Sequence[str], cache: Path, count: int) -> tuple[float, Sequence[float]]:
    """(seconds of the first start, those of so many further ones)."""
    return _seconds(command, cache), [_seconds(command, cache) for _ in range(count)]


def _seconds(command: Sequence[str], cache: Path) -> float:
    """Of a whole process. Raises RuntimeError as `_run`."""
    for picture in cache.parent.glob("out*"):  # else launch/edit.py would have nothing to do
        picture.unlink()
    begin = time.perf_counter()
    _run(command, cache)
    return time.perf_counter() - begin


def _run(command: Sequence[str], cache: Path) -> str:
    """What a process prints. Raises RuntimeError, with its errors, if it fails."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    # Python keeps bytecode by default; some images of containers turn that off.
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(cache.with_name("bytecode"))}
    settings = {"JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONPATH": paths, **bytecode}
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[1]} failed: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    print_rows(__doc__, rows)
