"""Metrics of a running training: metrics.jsonl, TensorBoard events, images and a progress bar."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tensorboardX import SummaryWriter
from tqdm import tqdm

from rewardedit_jax.data.runs import atomic_write


class MetricWriter:
    """Writes the metrics of each logged step on the first host; on the others it does nothing.

    Args:
      workdir: gets metrics.jsonl (one object per logged step), tensorboard/ and images/.
      start: steps done before. Records of later steps, by a run that was killed, are removed: each step is there once.
      steps: length of the run.
    """

    def __init__(self, workdir: Path, start: int, steps: int):
        self._first = jax.process_index() == 0
        if not self._first:
            return
        self._images = workdir / "images"
        _drop_after(start, workdir / "metrics.jsonl")
        self._file = (workdir / "metrics.jsonl").open("a", buffering=1)  # by lines: readable while the run goes on
        # TensorBoard has no way to delete events; `purge_step` makes it ignore those of later steps.
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)
        self._bar = tqdm(total=steps, initial=start, disable=not sys.stderr.isatty(), unit="step")

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._first:
            self._bar.close()
            self._events.close()
            self._file.close()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Call once per step, in order. A value that is not finite is written as null."""
        if not self._first:
            return
        # NaN and infinity are not valid JSON.
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)
        self._show(step, metrics)

    def write_image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Write an image as a TensorBoard event and as images/<name>_<step>.png."""
        if not self._first:
            return
        # Seven digits: files sort by step.
        file = self._images / f"{name}_{step:07d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
        self._events.add_image(name, image, step, dataformats="HWC")

    def _show(self, step: int, metrics: Mapping[str, float]) -> None:
        shown = {name: f"{metrics[name]:.4g}" for name in ("loss", "examples_per_second") if name in metrics}
        if self._bar.disable:  # not a terminal: a line per logged step instead of a bar
            print(f"step {step}/{self._bar.total}", *(f"{k} {v}" for k, v in shown.items()), flush=True)
        else:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(step - self._bar.n)


def _drop_after(step: int, file: Path) -> None:
    """Remove the records after `step`, and a last line that is incomplete because its run was killed."""
    if not file.exists():
        return
    # A record is one line of ASCII, so that splitlines cannot break within it.
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    with atomic_write(file) as shorter:  # a second kill loses nothing
        shorter.write_text("".join(kept))
