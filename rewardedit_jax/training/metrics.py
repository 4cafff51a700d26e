"""Metrics of a running training: metrics.jsonl, TensorBoard events, images and a progress bar."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import jax
import numpy as np
from absl import logging
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from rewardedit_jax.data.json_files import parse_json
from rewardedit_jax.data.output_files import NO_ROOM, atomic_write, set_aside, set_lines_aside
from rewardedit_jax.training.tensorboard import TensorBoard


class MetricWriter:
    """Writes the metrics of each logged step on the first host; on the others it does nothing.

    Records for which the disk has no room wait in memory until it has; those that still wait at the end, and other
    faults of metrics.jsonl, are an `OSError`, which names the file. Charts, images and the progress bar may fail (full
    disk, closed terminal) without stopping the training.

    Args:
      workdir: gets metrics.jsonl (one object per logged step, and one per evaluation), tensorboard/ and images/.
      start: steps done before. Records of later steps, by a run that was killed, are removed: each step is there once.
      steps: length of the run.

    Attributes:
      recorded: names of the metrics that an earlier run has recorded at step `start`; none on other hosts.
    """

    def __init__(self, workdir: Path, start: int, steps: int):
        self._first = jax.process_index() == 0
        self.recorded: set[str] = set()
        if not self._first:
            return
        self._images = workdir / "images"
        self._records = workdir / "metrics.jsonl"
        with _naming(self._records):
            self.recorded = _drop_after(start, self._records)
            self._file = self._records.open("ab", buffering=0)  # readable during the run
        self._waiting = b""  # what the disk had no room for
        self._events = TensorBoard(workdir / "tensorboard", purge_step=start + 1)
        self._bar = tqdm(total=steps, initial=start, disable=not sys.stderr.isatty(), unit="step")

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._first:
            with suppress(OSError):
                self._bar.close()
            self._events.close()
            with _naming(self._records), self._file:
                if self._waiting and not error:
                    self._append(b"")

    def announce(self, text: str) -> None:
        """Print a line, and show it beside the bar until the next logged step."""
        if self._first:
            with suppress(OSError):
                self._bar.set_postfix_str(text)
                tqdm.write(text)
                sys.stdout.flush()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Call once per step, in order. A value that is not finite is written as null."""
        if self._first:
            self._record(step, metrics)
            with suppress(OSError):  # the terminal is closed, or the reader of a pipe has ended
                self._show(step, metrics)

    def write_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """What was measured after `step`: a record of its own behind that of the step, and a printed line."""
        if self._first:
            self._record(step, metrics)
            with suppress(OSError):
                tqdm.write(f"step {step}/{self._bar.total} {_in_words(metrics)}")
                sys.stdout.flush()

    def write_image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Write an image as a TensorBoard event and as images/<name>_<step>.png."""
        if not self._first:
            return
        # Seven digits: files sort by step.
        file = self._images / f"{name}_{step:07d}.png"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
        except OSError as error:
            logging.warning("%s is not written: %s", file, error)
        self._events.add_image(step, name, image)

    def _record(self, step: int, metrics: Mapping[str, float]) -> None:
        # NaN and infinity are not valid JSON.
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        known = bool(self._waiting)
        try:
            with _naming(self._records):
                self._append(json.dumps({"step": step, **finite}).encode() + b"\n")
        except OSError as full:
            if full.errno not in NO_ROOM:
                raise
            if not known:
                logging.warning("%s. The run goes on, and its records wait for room.", full)
        self._events.add(step, metrics)

    def _append(self, record: bytes) -> None:
        self._waiting += record
        while self._waiting:  # a disk that gets full takes a part of a line
            self._waiting = self._waiting[self._file.write(self._waiting) :]

    def _show(self, step: int, metrics: Mapping[str, float]) -> None:
        shown = {name: metrics[name] for name in ("loss", "examples_per_second") if name in metrics}
        if self._bar.disable:  # not a terminal: a line per logged step instead of a bar
            print(f"step {step}/{self._bar.total} {_in_words(shown)}", flush=True)
        else:
            self._bar.set_postfix_str(_in_words(shown), refresh=False)
            self._bar.update(step - self._bar.n)


def _in_words(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in metrics.items())


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Adds the name of the file to an `OSError`: that of a full disk has none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def read_records(file: Path) -> tuple[list[tuple[int, bytes]], list[bytes]]:
    """The records of a metrics.jsonl as (step, line), and its damaged lines. Without the file there are none.

    The text after the last line break is dropped unless it is a record: the run was killed while it wrote it.
    """
    if not file.exists():
        return [], []
    # As bytes: a damaged line may not be UTF-8.
    *lines, rest = file.read_bytes().split(b"\n")
    steps = [_step(line) for line in lines]
    records = [(step, line) for step, line in zip(steps, lines, strict=True) if step is not None]
    damaged = [line for step, line in zip(steps, lines, strict=True) if step is None and line.strip()]
    return records + [(step, rest) for step in [_step(rest)] if step is not None], damaged


def _step(line: bytes) -> int | None:
    """The step of a record; None for other text."""
    record = parse_json(line)
    step = record.get("step") if isinstance(record, dict) else None
    return step if type(step) is int else None  # not isinstance: true is an int


def _drop_after(step: int, file: Path) -> set[str]:
    """Remove the records after `step`. Returns the names in those of `step` itself.

    Damaged lines, or a file that cannot be read, are kept under another name.
    """
    try:
        records, damaged = read_records(file)
    except OSError as error:  # a directory, or not permitted
        logging.warning("%s cannot be read and is kept as %s: %s", file, set_aside(file, "damaged").name, error)
        return set()
    if damaged:
        set_lines_aside(file, damaged)
    if file.exists():
        with atomic_write(file) as shorter:  # a second kill loses nothing
            shorter.write_bytes(b"".join(line + b"\n" for n, line in records if n <= step))
    return {name for n, line in records if n == step for name in json.loads(line)}
