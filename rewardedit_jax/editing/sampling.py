"""A whole edit as one jitted function (encode, denoise under guidance, decode), and the noise that it starts from."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, UInt32

from rewardedit_jax.arguments import as_array, as_integer
from rewardedit_jax.bases.base import Base
from rewardedit_jax.diffusion.guidance import combine, repeat
from rewardedit_jax.diffusion.samplers import SamplerTable, sample
from rewardedit_jax.params import Params

Shape = tuple[int, ...]
# NumPy reads a larger seed as two words, the second of which would be taken for the number of the stream.
_LARGEST_SEED = 2**32 - 1


@flax.struct.dataclass
class EditInputs:
    """A batch of edits."""

    source: Any  # float32[b, H, W, 3] in [-1, 1]
    asked: Any  # what `Base.read` makes of the requests
    low: Any  # the same with the reward that reward guidance leads away from
    latents: Any  # float32[b, h, w, c], standard normal
    noise: Any  # float32[steps, b, h, w, c], standard normal; None for samplers that add none


# Whatever differs between prompts, guidance scales, seeds, noise schedules or samplers of one kind is an array. It is
# compiled once for the base, the shapes, the number of steps, the branches and the tiles.
@partial(jax.jit, static_argnames=("base", "branches", "tile"))
def edit_batch(
    base: Base,
    params: Params,
    inputs: EditInputs,
    table: SamplerTable,
    weights: Float[Array, " k"],
    branches: tuple[str, ...],
    tile: int | None = None,
) -> Float[Array, "b H W 3"]:
    """Edited images in 0..1.

    Args:
      weights, branches: of `Base.guide`.
      tile: of `Base.encode`.
    """
    # Python runs this body once per program, before XLA compiles it: a user sees why nothing happens for a while.
    count, height, width, _ = inputs.source.shape
    logging.info("compiling the editor for batches of %d, %d × %d pixels", count, width, height)
    # Conditions are computed once, not in every step: they do not depend on the noise.
    source = base.encode(params, inputs.source, tile)
    conditions = base.condition_branches(params, source, inputs.asked, inputs.low, branches)

    def guided(x: Array, time: Array) -> Array:
        # All branches in one batch: one call of the network per step.
        x = repeat(x, len(branches))
        output = combine(base.denoise(params, x, jnp.full(len(x), time), conditions), weights)
        # NaN passes the sampler's clip of x0, which would turn an infinite output into a picture.
        return jnp.where(jnp.isfinite(output), output, jnp.nan)

    return base.decode(params, sample(guided, table, inputs.latents, noise=inputs.noise), tile)


class StartingNoise:
    """The standard normal noise of some edits: given, or drawn from a seed for each edit.

    The noise of an edit depends on its own seed alone: not on the other edits, nor on how they are batched. Its latents
    do not depend on the number of steps either.
    """

    def __init__(
        self,
        base: Base,
        edits: int,
        steps: int,
        seed: Any,
        latents: Any,
        noise: Any,
    ):
        """
        Args:
          seed: an integer in 0..2³² - 1 for each edit; a single number n stands for n, n + 1, ...
          latents: an array [edits, h, w, c], or None to draw them.
          noise: an array [steps, edits, h, w, c], or None to draw it.
        Raises:
          ValueError: any other value, or numbers that are not finite.
        """
        self._base, self._edits, self._steps = base, edits, steps
        self._seeds = _seeds(seed, edits)
        self._latents = None if latents is None else as_array("latents", latents)
        self._noise = None if noise is None else as_array("noise", noise)

    def seeds(self, chosen: Sequence[int]) -> UInt32[np.ndarray, " b"]:
        """The seeds of the chosen edits."""
        return np.asarray([self._seeds[i] for i in chosen], np.uint32)

    def latents(self, chosen: Sequence[int], images: Shape) -> Float[np.ndarray, "b h w c"]:
        """Starting latents of the chosen edits, whose images have the shape [b, H, W, 3].

        Raises:
          ValueError: if given latents have another shape.
        """
        # Given noise is checked here, where the size of the image is known.
        grid = self._base.latent_shape(*images[1:3])
        if self._latents is None:
            return np.stack([self._draw(i, 0, grid) for i in chosen])
        _check_shape("latents", self._latents, (self._edits, *grid))
        return self._latents[list(chosen)]

    def noise(self, chosen: Sequence[int], images: Shape) -> Float[np.ndarray, "s b h w c"]:
        """The noise that each step of the chosen edits adds. Raises ValueError as `latents`."""
        grid = self._base.latent_shape(*images[1:3])
        if self._noise is None:
            return np.stack([self._draw(i, 1, (self._steps, *grid)) for i in chosen], axis=1)
        _check_shape("noise", self._noise, (self._steps, self._edits, *grid))
        return self._noise[:, list(chosen)]

    def _draw(self, edit: int, stream: int, shape: Shape) -> Float[np.ndarray, "*shape"]:
        # NumPy's generator, because its numbers are the same on every accelerator.
        return np.random.default_rng([self._seeds[edit], stream]).standard_normal(shape, np.float32)


def _seeds(seed: Any, edits: int) -> Sequence[int]:
    if isinstance(seed, Sequence) and not isinstance(seed, str | bytes):
        seeds = seed
    elif getattr(seed, "ndim", 0) == 1:
        seeds = list(seed)
    else:
        # The last one has to be a seed as well.
        first = as_integer("seed", seed, 0, _LARGEST_SEED - edits + 1)
        return range(first, first + edits)
    if len(seeds) != edits:
        raise ValueError(f"{len(seeds)} seeds for {edits} edits: give one number, or one for each edit.")
    return [as_integer(f"seed of edit {i}", one, 0, _LARGEST_SEED) for i, one in enumerate(seeds)]


def _check_shape(name: str, given: np.ndarray, expected: Shape) -> None:
    if given.shape != expected:
        raise ValueError(f"{name} have the shape {list(given.shape)}; these edits need {list(expected)}.")
