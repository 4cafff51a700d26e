"""What the benchmarks of networks share: rounds that take turns, counted FLOPs, floors, and PyTorch as the peer."""

import importlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

# Dense bfloat16 FLOP/s of NVIDIA's data sheets, without sparsity. MFU is relative to them.
_PEAKS = {"H100": 989.4e12, "H200": 989.4e12, "A100": 312e12}

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
    # For a backend that has no kernel, the package writes attention by its formula.
    with mock.patch.object(jax, "default_backend", return_value="none"):
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
