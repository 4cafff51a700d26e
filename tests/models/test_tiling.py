"""Networks in overlapping tiles: coverage, blending, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax.models.tiling import in_tiles

CELL = 2  # pixels, of the networks here


def picture(height, width, channels=3):
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, height, width, channels), np.float32))


def shrink(x):
    """Each cell by its mean: an encoder that is exactly local."""
    b, h, w, c = x.shape
    return x.reshape(b, h // CELL, CELL, w // CELL, CELL, c).mean((2, 4))


def enlarge(x):
    return x.repeat(CELL, axis=1).repeat(CELL, axis=2)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (5, 7), (12, 23), (3, 30)])
@pytest.mark.parametrize("tile", [5, 8])
def test_a_local_network_gives_what_it_gives_of_the_whole(rows, columns, tile):
    """Weights therefore sum to one, at every place and however many tiles meet there."""
    image, latents = picture(CELL * rows, CELL * columns), picture(rows, columns, 4)
    np.testing.assert_allclose(in_tiles(shrink, image, tile, CELL, 1), shrink(image), atol=1e-6)
    np.testing.assert_allclose(in_tiles(enlarge, latents, tile, 1, CELL), enlarge(latents), atol=1e-6)


def test_structs_of_arrays_are_tiled_leaf_by_leaf():
    image = picture(12, 20)
    both = in_tiles(lambda x: {"mean": shrink(x), "more": shrink(x)[..., :1] ** 2}, image, 4, CELL, 1)
    np.testing.assert_allclose(both["mean"], shrink(image), atol=1e-6)
    np.testing.assert_allclose(both["more"], shrink(image)[..., :1] ** 2, atol=1e-6)


def test_a_tile_takes_over_linearly_where_two_overlap():
    """A network that sees its whole tile: its result changes along the overlap, not in steps."""
    image = jnp.concatenate([jnp.zeros((1, 4, 6, 1)), jnp.ones((1, 4, 8, 1))], axis=2)
    tiled = in_tiles(lambda x: jnp.full_like(x, x.mean()), image, 8, 1, 1)
    first, second = 2 / 8, 1.0  # the means of columns 0..7 and 6..13
    expected = np.concatenate([np.full(6, first), [first, (first + second) / 2], np.full(6, second)])
    np.testing.assert_allclose(tiled[0, :, :, 0], np.tile(expected, (4, 1)), atol=1e-6)


def test_memory_is_that_of_a_tile():
    kernels = [np.ones((3, 3, 3, 64), np.float32), np.ones((3, 3, 64, 3), np.float32)]

    def network(x):
        for kernel in kernels:
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return x

    def memory(run):
        return jax.jit(run).lower(picture(128, 128)).compile().memory_analysis().temp_size_in_bytes

    whole, tiled = memory(network), memory(lambda x: in_tiles(network, x, 32, 1, 1))
    assert tiled < whole / 8  # a tile is a sixteenth of the image


def test_tiles_too_small_to_overlap_are_refused():
    with pytest.raises(ValueError, match=r"3 cells.*4"):
        in_tiles(shrink, picture(16, 16), 3, CELL, 1)
