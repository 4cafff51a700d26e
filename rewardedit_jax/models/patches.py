"""Images → the tokens of a vision transformer: a class token, one token per patch, and learned positions.

Positions are learned for square images of one size; for images of another, their grid is resized as PyTorch does it.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.linen.initializers import normal
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from rewardedit_jax.models.layers import Conv, Embed, TypedModule

PARTITION_RULES = (
    (r"(.*/)?embeddings/class_embedding", P()),
    (r"(.*/)?embeddings/patch_embedding/kernel", P(None, None, None, "fsdp")),
)
_SHARPNESS = -0.75  # the parameter of the cubic kernel in PyTorch; Pillow and JAX have -0.5


class PatchEmbeddings(TypedModule):
    """The class token and the patch embeddings, plus position embeddings. A rest of less than a patch is left out."""

    width: int
    patch_size: int
    image_size: int  # that positions are learned for
    use_bias: bool

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b l d"]:
        patch, side = (self.patch_size,) * 2, self.image_size // self.patch_size
        # Strides as long as the kernel: one dense layer on every patch.
        embed_patches = Conv(
            self.width, patch, patch, "VALID", use_bias=self.use_bias, **self.types, name="patch_embedding"
        )
        patches = embed_patches(images)
        token = self.param("class_embedding", normal(self.width**-0.5), (self.width,), self.param_dtype)
        tokens = jnp.broadcast_to(token.astype(self.dtype), (patches.shape[0], 1, self.width))
        x = jnp.concatenate([tokens, patches.reshape(patches.shape[0], -1, self.width)], axis=1)
        # float32 for any compute type: the positions are resized before they are rounded.
        types = {"dtype": jnp.float32, "param_dtype": self.param_dtype}
        embed = Embed(1 + side**2, self.width, embedding_init=normal(0.02), **types, name="position_embedding")
        positions = embed(jnp.arange(1 + side**2))
        grid = resize_grid(positions[1:].reshape(side, side, -1), *patches.shape[1:3])
        return x + jnp.concatenate([positions[:1], grid.reshape(-1, self.width)]).astype(self.dtype)


def resize_grid(grid: Float[Array, "r c d"], rows: int, columns: int) -> Float[Array, "{rows} {columns} d"]:
    """A grid of vectors resized by bicubic interpolation.

    As PyTorch's `interpolate(size=..., mode="bicubic", align_corners=False)` without antialiasing, with which
    transformers resizes the positions of ViT and DINOv2.
    """
    if grid.shape[:2] == (rows, columns):
        return grid
    down, across = (jnp.asarray(cubic_weights(*sizes)) for sizes in zip(grid.shape[:2], (rows, columns), strict=True))
    return jnp.einsum("ir,jc,rcd->ijd", down, across, grid, precision="highest")


def cubic_weights(old: int, new: int) -> Float[np.ndarray, "{new} {old}"]:
    """The matrix of cubic interpolation from `old` to `new` points, float32; rows sum to 1."""
    # Each point covers an equal part of the same interval, so that point i lies at (i + 1/2) · old / new - 1/2.
    centres = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(centres).astype(int) - 1
    weights = np.zeros((new, old))
    for tap in first + np.arange(4)[:, None]:
        # Beyond the border, the point at the border is repeated.
        weights[np.arange(new), tap.clip(0, old - 1)] += _cubic(np.abs(centres - tap))
    return weights.astype(np.float32)


def _cubic(distance: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Keys' cubic convolution kernel (1981) at distances of 0..2."""
    a, x = _SHARPNESS, distance
    return np.where(x <= 1, ((a + 2) * x - (a + 3)) * x**2 + 1, ((x - 5) * x + 8) * a * x - 4 * a)
