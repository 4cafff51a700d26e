"""A network on a large image in overlapping tiles, so that its memory is that of one tile.

For autoencoders, whose activations at full resolution are what an edit of a large image needs most memory for. Tiles
overlap by a quarter and are blended linearly, as those of diffusers' `AutoencoderKL.enable_tiling`. There the last row
and column of tiles are what remains of the image, down to a quarter of a tile: sizes that the network was not trained
at, and a program for each. Here all tiles have one size and, where the image is no whole number of steps, overlap more.

The result is another one than that of the whole image, near the seams and by normalisation and attention, which see one
tile at a time. Axes: b batch, h w image or grid, c channels. A cell is the square of pixels that one latent stands for.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

LEAST_CELLS = 4  # of which one overlaps


def in_tiles(
    network: Callable[[Float[Array, "b h w c"]], PyTree], x: Float[Array, "b h w c"], tile: int, reads: int, writes: int
) -> PyTree:
    """What a network makes of an image, tile after tile.

    Args:
      network: an image of any number of cells → arrays float[b, h2, w2, c2] of as many cells.
      tile: side of the tiles in cells, at least `LEAST_CELLS`. A side of the image that is not longer is not divided.
      reads, writes: side of a cell in what the network reads and in what it writes.
    Returns:
      The network's arrays for the whole image, in float32.
    """
    batch, height, width, channels = x.shape
    axes = [_Axis(side // reads, tile) for side in (height, width)]
    rows, columns = (axis.blend_weights(writes) for axis in axes)
    size = batch, *(axis.tile * reads for axis in axes), channels

    def read(place: Int[Array, " 2"]) -> Float[Array, "b h w c"]:
        return jax.lax.dynamic_slice(x, (0, *place * reads, 0), size)

    def add(whole: PyTree, now: tuple[Array, ...]) -> tuple[PyTree, None]:
        place, row, column = now
        weights = (row[:, None] * column)[:, :, None]

        def onto(sum_: Array, part: Array) -> Array:
            at = (0, *place * writes, 0)
            before = jax.lax.dynamic_slice(sum_, at, part.shape)
            return jax.lax.dynamic_update_slice(sum_, before + weights * part, at)

        return jax.tree.map(onto, whole, network(read(place))), None

    def empty(part: jax.ShapeDtypeStruct) -> Array:
        return jnp.zeros((batch, *(axis.length * writes for axis in axes), part.shape[-1]), jnp.float32)

    # One program for all tiles, as they have one size. `scan` holds the activations of one of them at a time.
    i, j = (index.ravel() for index in np.indices([len(axis.starts) for axis in axes]))
    places = np.stack([axes[0].starts[i], axes[1].starts[j]], axis=1)
    whole = jax.tree.map(empty, jax.eval_shape(network, jax.ShapeDtypeStruct(size, x.dtype)))
    return jax.lax.scan(add, whole, (places, rows[i], columns[j]))[0]


class _Axis:
    """Where the tiles of one side of an image lie, in cells."""

    def __init__(self, length: int, tile: int):
        if tile < LEAST_CELLS:
            raise ValueError(f"tiles of {tile} cells: expected at least {LEAST_CELLS}")
        self.length, self.tile = length, min(tile, length)
        step = self.tile - self.tile // 4
        steps = -(-(length - self.tile) // step)
        # Evenly spaced, at most a step apart: the last tile ends where the image does.
        self.starts: Int[np.ndarray, " n"] = np.arange(steps + 1) * (length - self.tile) // max(steps, 1)

    def blend_weights(self, cell: int) -> Float[np.ndarray, "n side"]:
        """The weight of each tile at each of its rows or columns, for cells of so many of them.

        Each tile takes over from the one before it, linearly from the first to the last row that both have. The weights
        of a row sum to one, however many tiles it lies in.
        """
        side, starts = self.tile * cell, self.starts * cell
        left = np.ones(self.length * cell)  # what later tiles leave to the earlier ones
        weights = np.empty((len(starts), side))
        for i in range(len(starts))[::-1]:
            ramp = 1.0
            if i:
                shared = starts[i - 1] + side - starts[i]
                ramp = np.clip((np.arange(len(left)) - starts[i]) / shared, 0, 1)
            weights[i] = (ramp * left)[starts[i] : starts[i] + side]
            left *= 1 - ramp
        return weights.astype(np.float32)
