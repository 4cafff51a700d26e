"""Tiny CLIP and DINO networks as model directories, and pictures of awkward shapes."""

import jax
import jax.numpy as jnp
import numpy as np
from tiny_models import draw, tiny_clip, tiny_dino, tiny_dinov2

from rewardedit_jax.shapes.tokenizers import shapes_tokenizer
from rewardedit_jax.weights.pretrained import save_pretrained
from rewardedit_jax.weights.tokenizer_files import save_tokenizer

CLIP = tiny_clip()
NETWORKS = {"clip": CLIP, "dino": tiny_dino(), "dinov2": tiny_dinov2()}
# Height and width: square, wide, tall and narrow, odd on both sides, smaller than what networks take.
SHAPES = ((224, 224), (300, 451), (701, 97), (333, 335), (7, 9), (40, 21), (256, 343))


def save_network(name, directory):
    """A directory as those on the hub: CLIP's has the tokenizer beside the weights."""
    save_pretrained(NETWORKS[name], draw(NETWORKS[name]), directory)
    if name == "clip":
        save_tokenizer(shapes_tokenizer(), directory)
    return directory


def picture(height, width, seed=0):
    """A smooth picture with noise: a shift by one pixel shows."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = 110 + 90 * np.sin(rows[..., None] / (5, 9, 14) + columns[..., None] / (11, 6, 8))
    return (waves + rng.integers(0, 50, (height, width, 3))).astype(np.uint8)


def applied(module, params, inputs, method=None):
    """What a network gives, without the metric's code."""
    return np.asarray(
        jax.jit(module.apply, static_argnames="method")({"params": params}, jnp.asarray(inputs), method=method)
    )
