"""The noise that edits start from, and that their steps add: given, or drawn from a seed for each edit."""

import operator
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from rewardedit_jax.editing.networks import Networks

Shape = tuple[int, ...]


class StartingNoise:
    """Standard normal noise of `edits` edits.

    An edit's noise depends on its own seed alone: not on the other edits, nor on how they are batched. Its latents do
    not depend on the number of steps either.
    """

    def __init__(
        self,
        networks: Networks,
        edits: int,
        steps: int,
        seed: int | Sequence[int],
        latents: np.ndarray | jax.Array | None,  # [edits, h, w, c]
        noise: np.ndarray | jax.Array | None,  # [steps, edits, h, w, c]
    ):
        self._networks, self._steps = networks, steps
        self._seeds = _seeds(seed, edits)
        self._latents = None if latents is None else np.asarray(latents, np.float32)
        self._noise = None if noise is None else np.asarray(noise, np.float32)
        self._edits = edits

    def latents(self, chosen: Sequence[int], pictures: Shape) -> Float[np.ndarray, "b h w c"]:
        """Of some edits whose pictures have the shape [b, H, W, 3].

        Raises:
          ValueError: if given latents have another shape.
        """
        grid = self._grid(pictures)
        if self._latents is None:
            return np.stack([self._draw(i, 0, grid) for i in chosen])
        _check_shape("latents", self._latents, (self._edits, *grid))
        return self._latents[list(chosen)]

    def noise(self, chosen: Sequence[int], pictures: Shape) -> Float[np.ndarray, "s b h w c"]:
        """Likewise, one for each step."""
        grid = self._grid(pictures)
        if self._noise is None:
            return np.stack([self._draw(i, 1, (self._steps, *grid)) for i in chosen], axis=1)
        _check_shape("noise", self._noise, (self._steps, self._edits, *grid))
        return self._noise[:, list(chosen)]

    def _grid(self, pictures: Shape) -> Shape:
        """Latent height, width and channels."""
        factor = self._networks.pixels_per_latent
        return pictures[1] // factor, pictures[2] // factor, self._networks.vae.config.latent_channels

    def _draw(self, edit: int, stream: int, shape: Shape) -> Float[np.ndarray, "*shape"]:
        return np.random.default_rng([self._seeds[edit], stream]).standard_normal(shape, np.float32)


def _seeds(seed: int | Sequence[int], edits: int) -> Sequence[int]:
    if not isinstance(seed, Sequence):
        first = operator.index(seed)
        return range(first, first + edits)
    if len(seed) != edits:
        raise ValueError(f"{len(seed)} seeds do not go with {edits} edits: give one number, or one for each.")
    return seed


def _check_shape(what: str, given: np.ndarray, wanted: Shape) -> None:
    if given.shape != wanted:
        raise ValueError(f"{what} must have the shape {list(wanted)} for these edits, not {list(given.shape)}.")
