"""Results of the benchmarks: where they were measured, the table of their rows, and the command that prints it.

A benchmark of networks has a generator `rows(size)`. Its script prints them, and `device.py` writes those of all. Sizes
are "tiny" for tests, "small" for a CPU and "full" for an accelerator.
"""

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from timing import Row

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "diffusers", "transformers", "jax-cuda13-plugin", "numpy")


def environment(commit: str = "") -> dict[str, Any]:
    """Where and when something was measured: hardware, driver, versions, load, date and commit."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),  # of the last minute; above `cores`, times are too long
        "driver": _output("nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"),
        "versions": {"python": platform.python_version()} | {name: v for name in _PACKAGES if (v := _version(name))},
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": commit or _output("git", "-C", os.path.dirname(__file__), "rev-parse", "--short", "HEAD"),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _output(*command: str) -> str:
    """What a command prints; nothing if it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def markdown(rows: Sequence[Row]) -> str:
    """A table of rows."""
    lines = ["| case | median | spread | time over ours | floor | |", "|---|---|---|---|---|---|"]
    for row in rows:
        value = "not measured" if row.value is None else f"{_number(row.value)} {row.unit}".rstrip()
        spread = " to ".join(map(_number, row.spread)) if row.spread else ""
        more = ", ".join(filter(None, [row.note, *(f"{name} {_number(x)}" for name, x in row.more.items())]))
        ratio, floor = ("" if x is None else _number(x) for x in (row.ratio, row.floor))
        lines.append(f"| {' | '.join((row.case, value, spread, ratio, floor, more))} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    """Three digits."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return np.format_float_positional(value, 3, unique=False, fractional=False, trim="-")


def size_of_run(small: bool, smallest: str = "small") -> str:
    """`full` on an accelerator, unless a small run is asked for."""
    return smallest if small or jax.default_backend() == "cpu" else "full"


def share_memory() -> None:
    """Has JAX take a GPU's memory as it needs it, not most of it at the start; call it before JAX knows its devices.

    PyTorch and other processes use the same GPU.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def print_rows(doc: str, rows: Callable[[str], Iterator[Row]]) -> None:
    """The command of a benchmark: parses its arguments, measures, and prints the table."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--small", action="store_true", help="networks for a CPU (default: where there is no accelerator)")
    p.add_argument("--json", type=Path, help="file for the results")
    a = p.parse_args()
    share_memory()
    where, found = environment(), []
    for row in rows(size_of_run(a.small)):
        print(f"{row.case}: {row.note if row.value is None else f'{_number(row.value)} {row.unit}'}", flush=True)
        found.append(row)
    print(*(f"{name}: {value}" for name, value in where.items()), "", markdown(found), sep="\n")
    if a.json:
        a.json.write_text(json.dumps({"environment": where, "rows": [*map(asdict, found)]}, indent=1), "utf-8")
