"""Kernels of scaled dot-product attention at the sizes of the networks: time and error, forward and with gradients.

  python benchmarks/attention.py  # on a GPU in bfloat16, elsewhere fewer sizes in float32

"rewardedit_jax" is `models/attention.py`, which chooses a kernel. Beside it are its formula, JAX's own function in XLA
and, on a GPU, in cuDNN: as it is, and with heads padded by zeros to the next width that its kernels are made for.
Errors are relative, in the Euclidean norm, to the formula in float32. On a GPU a call is too short to be timed alone:
twenty are queued. The floor counts two products forward and seven with gradients, as a kernel that keeps no score
matrix computes, and each array read and written once.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from reporting import print_rows
from timing import Row, Variant, floor_seconds, import_peer, take_turns, timed_rows

from rewardedit_jax.models.attention import attention, naive_attention

Arrays = tuple[jax.Array, jax.Array, jax.Array]  # query, key, value
Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Shape(NamedTuple):
    batch: int
    queries: int
    keys: int
    heads: int
    width: int


# Self- and cross-attention of Stable Diffusion 1.5 by level of the U-Net, at 512 px (4096 cells) and 256 px, with
# batches that fill a GPU; then head widths of others: 64 in Stable Diffusion 2 and CLIP, 128 in language models.
_UNET = (
    Shape(8, 4096, 4096, 8, 40), Shape(32, 1024, 1024, 8, 80), Shape(128, 256, 256, 8, 160), Shape(8, 4096, 77, 8, 40),
    Shape(32, 1024, 77, 8, 80), Shape(128, 256, 77, 8, 160), Shape(32, 1024, 1024, 8, 40), Shape(128, 256, 256, 8, 80),
)  # fmt: skip
_OTHERS = tuple(Shape(32_768 // n, n, n, 8, width) for n in (4096, 1024, 256) for width in (64, 128))
_TINY = (Shape(1, 64, 64, 2, 40),)
_ON_A_CPU = (Shape(1, 4096, 4096, 8, 40), Shape(1, 4096, 77, 8, 40), Shape(1, 1024, 1024, 8, 80))
_KERNEL_WIDTHS = (64, 128, 256)
_QUEUED = 20


def kernels(width: int) -> dict[str, Kernel]:
    xla = partial(jax.nn.dot_product_attention, implementation="xla")
    found: dict[str, Kernel] = {"rewardedit_jax": attention, "formula": naive_attention, "jax.nn, XLA": xla}
    if jax.default_backend() == "gpu":
        cudnn = partial(jax.nn.dot_product_attention, implementation="cudnn")
        found["cuDNN"] = cudnn
        if (wider := next(w for w in _KERNEL_WIDTHS if w >= width)) > width:
            found[f"cuDNN, padded to {wider}"] = partial(padded, cudnn, wider)
    return found


def padded(
    kernel: Callable[..., jax.Array], wider: int, query: jax.Array, key: jax.Array, value: jax.Array
) -> jax.Array:
    """Attention of heads that zeros widen: they add nothing to a score, and are cut off the result."""
    width = query.shape[-1]
    wide = (jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, wider - width))) for x in (query, key, value))
    return kernel(*wide, scale=width**-0.5)[..., :width]


def draw(shape: Shape, dtype: str) -> Arrays:
    keys = jax.random.split(jax.random.key(0), 3)
    lengths = shape.queries, shape.keys, shape.keys
    return tuple(jax.random.normal(k, (shape.batch, n, *shape[3:]), dtype) for k, n in zip(keys, lengths, strict=True))


def forward(kernel: Kernel, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    return (kernel(*arrays),)


def with_gradients(kernel: Kernel, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The gradients of query, key and value, for a cotangent that is not constant."""
    out, back = jax.vjp(kernel, *arrays)
    return back(out)


def compile_all(function: Callable[..., Any], shape: Shape, arrays: Arrays) -> dict[str, Future]:
    """Each kernel's program, or why there is none. Compiled side by side: that takes longer than the measurement."""

    def compiled(kernel: Kernel) -> Callable[..., tuple[jax.Array, ...]]:
        return jax.jit(partial(function, kernel)).lower(*arrays).compile()

    with ThreadPoolExecutor() as pool:
        return {name: pool.submit(compiled, kernel) for name, kernel in kernels(shape.width).items()}


def relative_error(found: tuple[jax.Array, ...], exact: tuple[jax.Array, ...]) -> float:
    """The largest among the results."""
    norm = lambda x: float(jnp.linalg.norm(x.astype(jnp.float32).ravel()))  # noqa: E731
    return max(norm(x.astype(jnp.float32) - y) / norm(y) for x, y in zip(found, exact, strict=True))


def rows(size: str) -> Iterator[Row]:
    gpu = jax.default_backend() == "gpu"
    dtype, calls = ("bfloat16", _QUEUED) if gpu else ("float32", 1)
    shapes = _TINY if size == "tiny" else _UNET + _OTHERS if gpu else _ON_A_CPU
    for shape in shapes:
        for name, function in (("forward", forward), ("with gradients", with_gradients)):
            yield from _compare(f"attention {_text(shape)} {dtype}, {name}", shape, function, dtype, calls)


def _compare(case: str, shape: Shape, function: Callable[..., Any], dtype: str, calls: int) -> Iterator[Row]:
    arrays, gradients = draw(shape, dtype), function is with_gradients
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(partial(function, naive_attention))(*(x.astype(jnp.float32) for x in arrays))
    variants: dict[str, Variant] = {}
    errors = {}
    for name, program in compile_all(function, shape, arrays).items():
        try:
            errors[name] = relative_error(program.result()(*arrays), exact)
            variants[name] = partial(_queued, program.result(), arrays, calls)
        except (NotImplementedError, RuntimeError, ValueError) as error:  # what cuDNN does not support
            yield Row(f"{case}: {name}", note=f"refused: {str(error).splitlines()[0][:100]}")
    if peer := import_peer()[0]:
        variants["PyTorch"] = peer.repeated_attention(shape, dtype, gradients, calls)
    flops = (7 if gradients else 2) * 2 * math.prod(shape)
    traffic = (2 if gradients else 1) * sum(x.nbytes for x in (*arrays, arrays[0]))
    seconds = {name: [s / calls for s in taken] for name, taken in take_turns(variants, 7).items()}
    for row in timed_rows(case, seconds, floor_seconds(flops, traffic, dtype)):
        name = row.case.removeprefix(f"{case}: ")
        yield replace(row, more={"error": errors[name]} if name in errors else {})


def _queued(program: Callable[..., Any], arrays: Arrays, calls: int) -> list[Any]:
    return [program(*arrays) for _ in range(calls)]


def _text(shape: Shape) -> str:
    return f"({shape.batch}, {shape.queries} to {shape.keys}, {shape.heads} × {shape.width})"


if __name__ == "__main__":
    print_rows(__doc__, rows)
