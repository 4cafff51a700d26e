"""What the benchmarks of networks share: rounds that take turns, floors, rows of a table, and where they were measured.

Each of these benchmarks has a generator `rows(size)`. Its script prints them, and `device.py` writes those of all.
"""

import argparse
import importlib
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

SIZES = ("tiny", "small", "full")  # for tests, for a CPU, for an accelerator
# Dense bfloat16 FLOP/s of NVIDIA's data sheets, without sparsity. MFU is relative to them.
_PEAKS = {"H100": 989.4e12, "H200": 989.4e12, "A100": 312e12}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "diffusers", "transformers", "jax-cuda13-plugin", "numpy")

Variant = Callable[[], Any]  # returns what it computed, so that it can be waited for


@dataclass(frozen=True)
class Row:
    """One line of a result."""

    case: str
    value: float | None = None  # the median; None: not measured, and `note` says why
    unit: str = "ms"
    spread: tuple[float, float] | None = None  # the smallest and the largest value
    ratio: float | None = None  # the time over that of this package, the median over rounds
    floor: float | None = None  # in `unit`: no program can need less
    note: str = ""
    more: Mapping[str, float] = field(default_factory=dict)


def take_turns(variants: Mapping[str, Variant], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant by round. All run once per round, so that a busy machine slows down all of them."""
    for run in variants.values():
        jax.block_until_ready(run())  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            begin = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def timed_rows(
    case: str, seconds: Mapping[str, list[float]], floor: float | None = None, **settings: Any
) -> Iterator[Row]:
    """Rows of variants that took turns, in milliseconds; the first variant is this package's."""
    ours = next(iter(seconds.values()))
    for name, taken in seconds.items():
        ratio = statistics.median(theirs / mine for theirs, mine in zip(taken, ours, strict=True))
        spread = 1e3 * min(taken), 1e3 * max(taken)
        milliseconds = None if floor is None else 1e3 * floor
        yield Row(f"{case}: {name}", 1e3 * statistics.median(taken), "ms", spread, ratio, milliseconds, **settings)


def guarded(rows: Iterator[Row], case: str) -> Iterator[Row]:
    """Rows of a comparison. If the peer fails, that is one more row: it must not end what else is measured."""
    try:
        yield from rows
    except Exception as error:
        yield Row(case, note=f"failed: {type(error).__name__}: {str(error).strip().splitlines()[:1]}")


class Ceilings(NamedTuple):
    """What the device reached on random data."""

    flops: float  # per second, of a large product of matrices
    bytes: float  # per second, read plus written, of a large copy


@cache
def ceilings(dtype: str) -> Ceilings:
    """Measured once per process, so that floors are those of this machine under its load."""
    accelerator = jax.default_backend() != "cpu"
    # Random data: products of zeros run faster on GPUs. The copy must not fit in a cache.
    factor = jax.random.normal(jax.random.key(0), (8192, 8192) if accelerator else (1024, 1024), dtype)
    large = jax.random.normal(jax.random.key(1), (2**28 if accelerator else 2**24,), dtype)
    calls = 10 if accelerator else 2
    return Ceilings(
        flops=2 * len(factor) ** 3 / _seconds_per_call(jax.jit(lambda x: x @ x), factor, calls),
        bytes=2 * large.nbytes / _seconds_per_call(jax.jit(lambda x: -x), large, calls),
    )


def _seconds_per_call(function: Callable[[jax.Array], jax.Array], x: jax.Array, calls: int) -> float:
    """The best of five: a ceiling. Calls are queued, so that their dispatch is hidden."""
    jax.block_until_ready(function(x))
    taken = []
    for _ in range(5):
        begin = time.perf_counter()
        jax.block_until_ready([function(x) for _ in range(calls)])
        taken.append((time.perf_counter() - begin) / calls)
    return min(taken)


def floor_seconds(flops: float, size: float, dtype: str) -> float:
    """The larger of the times that the arithmetic and the memory traffic (bytes) need at the measured ceilings."""
    ceiling = ceilings(dtype)
    return max(flops / ceiling.flops, size / ceiling.bytes)


def utilisation(flops: float, seconds: float) -> dict[str, float]:
    """{"MFU": model FLOPs per second over the data sheet's dense bfloat16 peak}; empty for an unknown device."""
    kind = jax.devices()[0].device_kind
    peak = next((peak for name, peak in _PEAKS.items() if name in kind), None)
    return {} if peak is None else {"MFU": flops / seconds / peak}


def matmul_flops(function: Callable[..., Any], *args: Any) -> int:
    """FLOPs of all matrix products and convolutions of a function, two per multiply-add; the rest is not counted.

    Counted in the function as it is written, whatever kernels a backend has for it: attention is two products.
    """
    # On a TPU the package writes attention by its formula; other backends hide it in kernels.
    with mock.patch.object(jax, "default_backend", return_value="tpu"):
        return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        settings, out = equation.params, math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = settings["dimension_numbers"]
            total += 2 * out * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            total += 2 * out * math.prod(kernel) // kernel[settings["dimension_numbers"].rhs_spec[0]]
        else:
            repeats = settings["length"] if equation.primitive.name == "scan" else 1
            total += repeats * sum(_count(inner) for value in settings.values() for inner in _jaxprs(value))
    return total


def _jaxprs(value: Any) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    return [inner for item in value for inner in _jaxprs(item)] if isinstance(value, tuple | list) else []


def import_peer(*packages: str) -> tuple[ModuleType | None, str]:
    """The module torch_peer, or None and why PyTorch with these packages cannot be compared with here."""
    wanted = {"cpu": "cpu", "gpu": "cuda"}.get(jax.default_backend())
    if wanted is None:
        return None, f"no PyTorch for {jax.default_backend()}"
    if missing := [name for name in ("torch", *packages) if not find_spec(name)]:
        return None, f"not installed: {', '.join(missing)}"
    peer = importlib.import_module("torch_peer")
    if wanted == "cuda" and not peer.torch.cuda.is_available():
        return None, f"PyTorch {peer.torch.__version__} sees no GPU"
    return peer, ""


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


def markdown(rows: list[Row]) -> str:
    """A table of rows."""
    lines = ["| case | median | spread | time over ours | floor | |", "|---|---|---|---|---|---|"]
    for row in rows:
        more = [row.note, *(f"{name} {_number(value)}" for name, value in row.more.items())]
        spread = " to ".join(map(_number, row.spread)) if row.spread else ""
        value = "not measured" if row.value is None else f"{_number(row.value)} {row.unit}"
        cells = row.case, value, spread, _number(row.ratio), _number(row.floor), ", ".join(filter(None, more))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return (
        ""
        if value is None
        else np.format_float_positional(value, 3, unique=False, fractional=False, trim="-")
        if 1e-3 <= abs(value) < 1e5 or not value
        else f"{value:.2e}"
    )


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
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small", action="store_true", help="networks for a CPU (default: where there is no accelerator)"
    )
    a = parser.parse_args()
    share_memory()
    where = environment()
    found = []
    for row in rows(size_of_run(a.small)):
        print(f"{row.case}: {row.note if row.value is None else f'{_number(row.value)} {row.unit}'}", flush=True)
        found.append(row)
    print(*(f"{name}: {value}" for name, value in where.items()), "", markdown(found), sep="\n")
