"""Kernels of scaled dot-product attention at the sizes of the networks: time and error, forward and with gradients.

  python benchmarks/attention.py          # on a GPU in bfloat16; elsewhere the sizes of 512 px in float32
  python benchmarks/attention.py --small  # short sequences

"rewardedit_jax" is `models/attention.py`, which chooses a kernel. Beside it are its formula, JAX's own function in XLA
and, on a GPU, in cuDNN: as it is, and with heads padded by zeros to the next width that its kernels are made for.
Errors are relative, in the Euclidean norm, to the formula in float32. On a GPU a call is too short to be timed alone:
ten follow each other, and each reads what the one before wrote. The floor counts two products forward and seven with
gradients, as a kernel that keeps no score matrix computes, and each array read and written once.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from timing import Row, Variant, floor_seconds, import_peer, print_rows, take_turns, timed_rows

from rewardedit_jax.models.attention import attention, naive_attention

Arrays = tuple[jax.Array, jax.Array, jax.Array]  # query, key, value
Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Shape(NamedTuple):
    batch: int
    queries: int
    keys: int
    heads: int
    width: int


# Self- and cross-attention of Stable Diffusion 1.5 at 512 px (4096 cells) and 256 px, then other networks' widths:
# Stable Diffusion 2 and CLIP have 64, language models 128.
_UNET = (
    Shape(8, 4096, 4096, 8, 40), Shape(8, 1024, 1024, 8, 80), Shape(8, 256, 256, 8, 160), Shape(8, 1024, 1024, 8, 40),
    Shape(8, 4096, 77, 8, 40), Shape(8, 1024, 77, 8, 80), Shape(8, 256, 77, 8, 160), Shape(8, 256, 256, 8, 80),
)  # fmt: skip
_OTHERS = tuple(Shape(8, n, n, 8, width) for width in (64, 128) for n in (4096, 1024, 256))
_SHAPES = {"tiny": (Shape(1, 64, 64, 2, 40),), "small": (Shape(1, 1024, 1024, 8, 40), Shape(1, 1024, 77, 8, 80))}
_ON_A_CPU = (Shape(1, 4096, 4096, 8, 40), Shape(1, 4096, 77, 8, 40), Shape(1, 1024, 1024, 8, 80))
_KERNEL_WIDTHS = (64, 128, 256)
_CALLS = 10


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


def forward(kernel: Kernel, *arrays: jax.Array) -> Arrays:
    return kernel(*arrays), *arrays[1:]


def with_gradients(kernel: Kernel, *arrays: jax.Array) -> Arrays:
    """The gradients of query, key and value, for a cotangent that is not constant."""
    out, back = jax.vjp(kernel, *arrays)
    return back(out)


def next_arrays(function: partial, arrays: Arrays) -> Arrays:
    """Results as the next arguments. Gradients are added to them: alone, they would soon be zeros, which run faster."""
    found = function(*arrays)
    return tuple(map(jnp.add, found, arrays)) if function.func is with_gradients else found


def repeated(function: partial, arrays: Arrays, calls: int) -> Variant:
    """Calls in one program, where each has the results of the one before as its arguments."""
    run = jax.jit(lambda arrays: jax.lax.scan(lambda x, _: (next_arrays(function, x), None), arrays, length=calls)[0])
    return partial(run, arrays)


def errors(function: Callable[..., Arrays], kernel: Kernel, arrays: Arrays) -> float:
    """The largest relative error among the results."""
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(partial(function, naive_attention))(*(x.astype(jnp.float32) for x in arrays))
    found = jax.jit(partial(function, kernel))(*arrays)
    norm = lambda x: float(jnp.linalg.norm(x.ravel()))  # noqa: E731
    return max(norm(x.astype(jnp.float32) - y) / norm(y) for x, y in zip(found, exact, strict=True))


def rows(size: str) -> Iterator[Row]:
    gpu = jax.default_backend() == "gpu"
    dtype, calls = ("bfloat16", _CALLS) if gpu else ("float32", 1)
    shapes = _SHAPES.get(size, _UNET + _OTHERS) if gpu or size == "tiny" else _ON_A_CPU
    for shape in shapes:
        for name, function in (("forward", forward), ("with gradients", with_gradients)):
            yield from _compare(f"attention {_text(shape)} {dtype}, {name}", shape, function, dtype, calls)


def _compare(case: str, shape: Shape, function: Callable[..., Arrays], dtype: str, calls: int) -> Iterator[Row]:
    arrays, variants, notes = draw(shape, dtype), {}, {}
    for name, kernel in kernels(shape.width).items():
        try:
            notes[name] = {"error": errors(function, kernel, arrays)}
            variants[name] = repeated(partial(function, kernel), arrays, calls)
        except (NotImplementedError, RuntimeError, ValueError) as error:  # what cuDNN does not support
            yield Row(f"{case}: {name}", note=f"refused: {str(error).splitlines()[0][:100]}")
    if run := _in_torch(shape, dtype, function is with_gradients, calls):
        variants["PyTorch"] = run
    products = 7 if function is with_gradients else 2
    flops = products * 2 * math.prod(shape)
    traffic = (2 if function is with_gradients else 1) * sum(x.nbytes for x in (*arrays, arrays[0]))
    seconds = {name: [s / calls for s in taken] for name, taken in take_turns(variants, 7).items()}
    for row in timed_rows(case, seconds, floor_seconds(flops, traffic, dtype)):
        yield Row(**{**vars(row), "more": notes.get(row.case.rpartition(": ")[2], {})})


def _in_torch(shape: Shape, dtype: str, gradients: bool, calls: int) -> Variant | None:
    peer, _ = import_peer("torch")
    return peer and peer.repeated_attention(shape, dtype, gradients, calls)


def _text(shape: Shape) -> str:
    return f"({shape.batch}, {shape.queries} to {shape.keys}, {shape.heads} × {shape.width})"


if __name__ == "__main__":
    print_rows(__doc__, rows)
