"""LPIPS: a distance between two images, from the features of a classification network that was trained on ImageNet.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018, arXiv:1801.03924),
equation 1, with the weights of version 0.1. The networks are the `features` of torchvision's AlexNet, VGG16 and
SqueezeNet 1.1; parameters have its numbers, in which every ReLU and pooling counts. Axes: b batch, h w grid,
c channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rewardedit_jax.models.layers import Conv, Dense, TypedModule

# Mean and deviation of ImageNet, for images in [-1, 1].
_SHIFT = np.float32([-0.030, -0.088, -0.188])
_SCALE = np.float32([0.458, 0.448, 0.450])
_EPSILON = 1e-10  # of the division by the norm over channels


@dataclass(frozen=True)
class ConvLayer:
    """A convolution and a ReLU."""

    features: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True)
class FireLayer:
    """A 1×1 convolution to few channels, then a 1×1 and a 3×3 convolution side by side, each with a ReLU."""

    squeeze: int
    expand: int


@dataclass(frozen=True)
class MaxPool:
    """The maximum over windows with stride 2. `ceil`: a window may reach over the border."""

    window: int
    ceil: bool = False


@dataclass(frozen=True)
class FeatureStack:
    """A network without its classifier."""

    layers: tuple[tuple[int, ConvLayer | FireLayer | MaxPool], ...]  # torchvision's number → layer
    taps: tuple[int, ...]  # numbers of the layers whose outputs are compared
    smallest: int  # side in pixels of the smallest square image that has features in every tap


ALEXNET = FeatureStack(
    layers=(
        (0, ConvLayer(64, 11, 4, 2)),
        (2, MaxPool(3)),
        (3, ConvLayer(192, 5, 1, 2)),
        (5, MaxPool(3)),
        (6, ConvLayer(384)),
        (8, ConvLayer(256)),
        (10, ConvLayer(256)),
    ),
    taps=(0, 3, 6, 8, 10),
    smallest=31,
)
VGG16 = FeatureStack(
    layers=(
        *((i, ConvLayer(64)) for i in (0, 2)),
        (4, MaxPool(2)),
        *((i, ConvLayer(128)) for i in (5, 7)),
        (9, MaxPool(2)),
        *((i, ConvLayer(256)) for i in (10, 12, 14)),
        (16, MaxPool(2)),
        *((i, ConvLayer(512)) for i in (17, 19, 21)),
        (23, MaxPool(2)),
        *((i, ConvLayer(512)) for i in (24, 26, 28)),
    ),
    taps=(2, 7, 14, 21, 28),
    smallest=16,
)
SQUEEZENET = FeatureStack(
    layers=(
        (0, ConvLayer(64, 3, 2, 0)),
        (2, MaxPool(3, ceil=True)),
        *((i, FireLayer(16, 64)) for i in (3, 4)),
        (5, MaxPool(3, ceil=True)),
        *((i, FireLayer(32, 128)) for i in (6, 7)),
        (8, MaxPool(3, ceil=True)),
        *((i, FireLayer(48, 192)) for i in (9, 10)),
        *((i, FireLayer(64, 256)) for i in (11, 12)),
    ),
    taps=(0, 4, 7, 9, 10, 11, 12),
    smallest=17,
)


class Fire(TypedModule):
    """The block of SqueezeNet (Iandola et al. 2016, arXiv:1602.07360)."""

    layer: FireLayer

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c2"]:
        x = nn.relu(Conv(self.layer.squeeze, (1, 1), **self.types, name="squeeze")(x))
        one = Conv(self.layer.expand, (1, 1), **self.types, name="expand1x1")(x)
        three = Conv(self.layer.expand, (3, 3), padding=1, **self.types, name="expand3x3")(x)
        return nn.relu(jnp.concatenate([one, three], axis=-1))


class Features(TypedModule):
    """Images, normalised by ImageNet's mean and deviation → the outputs of a stack's taps."""

    stack: FeatureStack

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> list[Float[Array, "b h2 w2 c"]]:
        return [x for number, x in self._outputs(x) if number in self.stack.taps]

    def _outputs(self, x: Float[Array, "b h w 3"]) -> Iterator[tuple[int, Float[Array, "b h2 w2 c"]]]:
        for number, layer in self.stack.layers:
            name = f"features_{number}"
            match layer:
                case ConvLayer():
                    strides, size = (layer.stride,) * 2, (layer.kernel,) * 2
                    convolve = Conv(layer.features, size, strides, layer.padding, **self.types, name=name)
                    x = nn.relu(convolve(x))
                case FireLayer():
                    x = Fire(layer, **self.types, name=name)(x)
                case MaxPool():
                    x = max_pool(x, layer)
            yield number, x


def max_pool(x: Float[Array, "b h w c"], layer: MaxPool) -> Float[Array, "b h2 w2 c"]:
    """Pooling as PyTorch's `MaxPool2d(window, stride=2, ceil_mode=ceil)`."""
    # The rest that full windows leave is filled up with -inf, which no maximum takes.
    rests = [(side - layer.window) % 2 if layer.ceil else 0 for side in x.shape[1:3]]
    return nn.max_pool(x, (layer.window,) * 2, (2, 2), [(0, rest) for rest in rests])


class LPIPS(TypedModule):
    """The distance of images [b h w 3] in [-1, 1], b at a time; 0 for equal images, symmetric."""

    stack: FeatureStack

    @nn.compact
    def __call__(self, first: Float[Array, "b h w 3"], second: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
        if min(first.shape[1:3]) < self.stack.smallest:
            raise ValueError(f"images of {first.shape[1:3]}: LPIPS needs sides of {self.stack.smallest} at least")
        # One batch of both: each kernel is compiled once.
        images = (jnp.concatenate([first, second]) - _SHIFT) / _SCALE
        distance = jnp.zeros(len(first))
        for i, features in enumerate(Features(self.stack, **self.types, name="net")(images)):
            a, b = jnp.split(_unit_length(features.astype(jnp.float32)), 2)
            # Not negative in the published weights; a 1×1 convolution without bias, in PyTorch.
            weighted = Dense(1, use_bias=False, **self.types, name=f"lin{i}")((a - b) ** 2)
            distance += weighted.mean((1, 2, 3))
        return distance

    def example_inputs(self) -> tuple[Float[Array, "1 h w 3"], Float[Array, "1 h w 3"]]:
        image = jnp.zeros((1, self.stack.smallest, self.stack.smallest, 3))
        return image, image


def _unit_length(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    return x / (jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True)) + _EPSILON)
