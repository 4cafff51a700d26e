"""What is kept for the backward pass, seen in the gradient's program."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from rewardedit_jax.models.attention import naive_attention
from rewardedit_jax.models.layers import Conv3x3, Dense, TypedModule
from rewardedit_jax.models.remat import rematerialised

X = jnp.ones((1, 4, 4, 8))


class Block(TypedModule):
    """A convolution, a dense layer and attention: one, one and two products."""

    @nn.compact
    def __call__(self, x):
        x = jnp.sin(Conv3x3(8, **self.types, name="conv")(x))
        x = Dense(8, **self.types, name="dense")(x).reshape(1, 16, 1, 8)
        return naive_attention(*3 * [jnp.sin(x)])


def products_of_gradients(remat):
    """(convolutions, matrix products) in the program of a block's gradients."""
    block = rematerialised(Block, remat)()
    params = block.init(jax.random.key(0), X)
    text = str(jax.make_jaxpr(jax.grad(lambda params, x: block.apply(params, x).sum(), argnums=(0, 1)))(params, X))
    return text.count("conv_general_dilated["), text.count("dot_general[")


@pytest.mark.parametrize(
    ("remat", "convolutions", "dense", "attention"),
    # A gradient has two products for each. "all" computes each once more; attention, whose last product is not needed
    # again, is never kept.
    [("none", 3, 3, 6), ("all_but_products", 3, 3, 7), ("all", 4, 4, 7)],
)
def test_products_that_are_computed_again(remat, convolutions, dense, attention):
    assert products_of_gradients(remat) == (convolutions, dense + attention)
