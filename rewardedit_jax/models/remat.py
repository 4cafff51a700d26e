"""Rematerialisation: what the backward pass computes again, so that the forward pass need not keep it.

Each block of a network is rematerialised by itself, so that the backward pass holds the activations of one at a time.
Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016).
"""

from typing import Any, Literal

import flax.linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

# What of a block is computed again. Products are the results of dense layers and convolutions: kept, they save nearly
# all the arithmetic of computing a block again. Attention, normalisations and activation functions are not kept.
Remat = Literal["none", "all_but_products", "all"]
_PRODUCT = "product"


def rematerialised(block: type[nn.Module], remat: Remat) -> type[nn.Module]:
    """The class of a block, or one whose gradients compute its activations again."""
    if remat == "none":
        return block
    return nn.remat(block, policy=_is_product if remat == "all_but_products" else None)


def named_product(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x`, marked as the result of a dense layer. Convolutions are known by their primitive.

    Products within attention have the same primitive as dense layers, and are too large to be kept.
    """
    return checkpoint_name(x, _PRODUCT)


def _is_product(primitive: Any, *_: Any, **params: Any) -> bool:
    is_named = primitive.name == "name" and params["name"] == _PRODUCT  # the primitive of `checkpoint_name`
    return is_named or primitive.name == "conv_general_dilated"
