"""Inception v3 as the Fréchet inception distance has it: the network of 2015 behind the original FID, up to `pool3`.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016, arXiv:1512.00567). Layers have the
names of torchvision's `Inception3`, sizes too; three things differ from it, as in pytorch-fid, whose weights load:
average pooling leaves the padding out of its mean, the last block takes maxima in place of means, and images are not
normalised by ImageNet's mean. Axes: b batch, h w grid, c channels.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import ones, zeros
from jax import lax
from jaxtyping import Array, Float

from rewardedit_jax.models.layers import Conv, TypedModule

SIDE = 299  # pixels, of the images that the network was trained on
WIDTH = 2048  # of pool3
_SMALLEST = 75  # side in pixels of the smallest image that has features in the last block
_EPSILON = 1e-3  # of every batch normalisation

Grid = Float[Array, "b h w c"]
NewGrid = Float[Array, "b h2 w2 c2"]
_max_pool = partial(nn.max_pool, window_shape=(3, 3))
_average_pool = partial(nn.avg_pool, window_shape=(3, 3), padding="SAME", count_include_pad=False)


class FrozenBatchNorm(TypedModule):
    """Batch normalisation with stored statistics, which are parameters like scale and bias: nothing trains here."""

    @nn.compact
    def __call__(self, x: Grid) -> Grid:
        start = {"scale": ones, "bias": zeros, "mean": zeros, "var": ones}
        scale, bias, mean, var = (self.param(n, init, x.shape[-1:], self.param_dtype) for n, init in start.items())
        return ((x - mean) * (scale * lax.rsqrt(var + _EPSILON)) + bias).astype(self.dtype)


class BasicConv(TypedModule):
    """A convolution without bias, a batch normalisation and a ReLU."""

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = True  # whether the grid is padded to keep its size

    @nn.compact
    def __call__(self, x: Grid) -> NewGrid:
        # Kernels have odd sides: "SAME" pads by half of them on both sides, as torchvision does.
        padding, strides = "SAME" if self.same else "VALID", (self.stride, self.stride)
        x = Conv(self.features, self.kernel, strides, padding, use_bias=False, **self.types, name="conv")(x)
        return nn.relu(FrozenBatchNorm(**self.types, name="bn")(x))


class Block(TypedModule):
    """What the blocks share: convolutions by name, and branches side by side."""

    def conv(self, name: str, features: int, height: int = 1, width: int = 1) -> BasicConv:
        return BasicConv(features, (height, width), **self.types, name=name)

    def halve(self, name: str, features: int) -> BasicConv:
        """A 3×3 convolution with stride 2 and without padding."""
        return BasicConv(features, (3, 3), 2, same=False, **self.types, name=name)


def _joined(*branches: Float[Array, "b h w _"]) -> NewGrid:
    return jnp.concatenate(branches, axis=-1)


class MixedA(Block):
    """`InceptionA`: 5×5 and double 3×3 convolutions."""

    pool: int  # channels of the branch that pools

    @nn.compact
    def __call__(self, x: Grid) -> NewGrid:
        one = self.conv("branch1x1", 64)(x)
        five = self.conv("branch5x5_2", 64, 5, 5)(self.conv("branch5x5_1", 48)(x))
        double = self.conv("branch3x3dbl_2", 96, 3, 3)(self.conv("branch3x3dbl_1", 64)(x))
        double = self.conv("branch3x3dbl_3", 96, 3, 3)(double)
        return _joined(one, five, double, self.conv("branch_pool", self.pool)(_average_pool(x)))


class MixedB(Block):
    """`InceptionB`: halves the grid."""

    @nn.compact
    def __call__(self, x: Grid) -> NewGrid:
        double = self.conv("branch3x3dbl_2", 96, 3, 3)(self.conv("branch3x3dbl_1", 64)(x))
        double = self.halve("branch3x3dbl_3", 96)(double)
        return _joined(self.halve("branch3x3", 384)(x), double, _max_pool(x, strides=(2, 2)))


class MixedC(Block):
    """`InceptionC`: 7×7 convolutions as a row and a column."""

    width: int  # channels within the branches of 7×7 convolutions

    @nn.compact
    def __call__(self, x: Grid) -> NewGrid:
        c = self.width
        one = self.conv("branch1x1", 192)(x)
        seven = self.conv("branch7x7_2", c, 1, 7)(self.conv("branch7x7_1", c)(x))
        seven = self.conv("branch7x7_3", 192, 7, 1)(seven)
        double = self.conv("branch7x7dbl_2", c, 7, 1)(self.conv("branch7x7dbl_1", c)(x))
        double = self.conv("branch7x7dbl_4", c, 7, 1)(self.conv("branch7x7dbl_3", c, 1, 7)(double))
        double = self.conv("branch7x7dbl_5", 192, 1, 7)(double)
        return _joined(one, seven, double, self.conv("branch_pool", 192)(_average_pool(x)))


class MixedD(Block):
    """`InceptionD`: halves the grid."""

    @nn.compact
    def __call__(self, x: Grid) -> NewGrid:
        three = self.halve("branch3x3_2", 320)(self.conv("branch3x3_1", 192)(x))
        seven = self.conv("branch7x7x3_2", 192, 1, 7)(self.conv("branch7x7x3_1", 192)(x))
        seven = self.halve("branch7x7x3_4", 192)(self.conv("branch7x7x3_3", 192, 7, 1)(seven))
        return _joined(three, seven, _max_pool(x, strides=(2, 2)))


class MixedE(Block):
    """`InceptionE`: a row and a column side by side. The two blocks of this kind pool differently."""

    pool: Callable[[Grid], Grid]  # keeps the size

    @nn.compact
    def __call__(self, x: Grid) -> NewGrid:
        one = self.conv("branch1x1", 320)(x)
        three = self._row_and_column("branch3x3_2", self.conv("branch3x3_1", 384)(x))
        double = self.conv("branch3x3dbl_2", 384, 3, 3)(self.conv("branch3x3dbl_1", 448)(x))
        double = self._row_and_column("branch3x3dbl_3", double)
        return _joined(one, three, double, self.conv("branch_pool", 192)(self.pool(x)))

    def _row_and_column(self, name: str, x: Grid) -> NewGrid:
        return _joined(self.conv(f"{name}a", 384, 1, 3)(x), self.conv(f"{name}b", 384, 3, 1)(x))


class InceptionV3(Block):
    """Images [b h w 3] in [0, 1], sides of 299 in FID, → features `pool3`."""

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b 2048"]:
        x = self._stem(2 * images - 1)
        for name, pool in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = MixedA(pool, **self.types, name=name)(x)
        x = MixedB(**self.types, name="Mixed_6a")(x)
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = MixedC(width, **self.types, name=name)(x)
        x = MixedD(**self.types, name="Mixed_7a")(x)
        x = MixedE(_average_pool, **self.types, name="Mixed_7b")(x)
        # A maximum where the paper has a mean: likely a mistake of the network of 2015, which its FID depends on.
        x = MixedE(partial(_max_pool, padding="SAME"), **self.types, name="Mixed_7c")(x)
        return x.mean((1, 2))

    def _stem(self, x: Grid) -> NewGrid:
        x = self.halve("Conv2d_1a_3x3", 32)(x)
        x = BasicConv(32, (3, 3), same=False, **self.types, name="Conv2d_2a_3x3")(x)
        x = _max_pool(self.conv("Conv2d_2b_3x3", 64, 3, 3)(x), strides=(2, 2))
        x = self.conv("Conv2d_3b_1x1", 80)(x)
        x = BasicConv(192, (3, 3), same=False, **self.types, name="Conv2d_4a_3x3")(x)
        return _max_pool(x, strides=(2, 2))

    def example_inputs(self) -> tuple[Float[Array, "1 h w 3"]]:
        return (jnp.zeros((1, _SMALLEST, _SMALLEST, 3)),)
