"""Memory of an edit at 1024 px, with the autoencoder seeing the whole image and in tiles of 512 px.

  python benchmarks/tiling.py          # Stable Diffusion 1.5 in bfloat16
  python benchmarks/tiling.py --small  # the same in float32, on a CPU

Nothing is run: the figures are the temporary memory that the compiler plans, beside parameters, inputs and results. The
autoencoder computes in float32 in both.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from networks import make_base
from reporting import print_rows
from timing import Row

from rewardedit_jax import Reward
from rewardedit_jax.bases.instruct_pix2pix import InstructPix2Pix
from rewardedit_jax.editing.sampling import EditInputs, edit_batch
from rewardedit_jax.params import abstract_params

_SIDES = {"tiny": (64, 32), "small": (1024, 512), "full": (1024, 512)}  # of image and tiles, in pixels


def rows(size: str) -> Iterator[Row]:
    side, tile = _SIDES[size]
    base = make_base("tiny" if size == "tiny" else "full", "bfloat16" if size == "full" else "float32")
    params = {name: abstract_params(getattr(base, name)) for name in base.components}
    inputs = edit_inputs(base, side)
    table = base.process.sampler_table("euler", 15, inputs.latents.shape)
    guidance = base.guide(7.5, 1.5, 0.0)
    for tiled in (None, tile):
        case = f"{side} px, {f'tiles of {tile} px' if tiled else 'the whole image'}"
        yield _row(f"encode, {case}", jax.jit(lambda p, x, t=tiled: base.encode(p, x, t).mode), params, inputs.source)
        yield _row(f"decode, {case}", jax.jit(lambda p, x, t=tiled: base.decode(p, x, t)), params, inputs.latents)
        yield _row(f"edit, {case}", edit_batch, base, params, inputs, table, guidance.weights, guidance.branches, tiled)


def edit_inputs(base: InstructPix2Pix, side: int) -> EditInputs:
    """A black image with an instruction and a reward."""
    pixels = np.zeros((1, side, side, 3), np.uint8)
    read = base.read(list(pixels), ["make it blue"], [Reward()], lambda text, tokens: None)
    latents = np.zeros((1, *base.latent_shape(side, side)), np.float32)
    return EditInputs(pixels.astype(np.float32), read, read, latents, noise=None)


def _row(case: str, jitted: Any, *arguments: Any) -> Row:
    return Row(case, jitted.lower(*arguments).compile().memory_analysis().temp_size_in_bytes / 2**30, "GiB")


if __name__ == "__main__":
    print_rows(__doc__, rows)
