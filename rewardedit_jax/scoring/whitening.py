"""A first layer that sees every direction in which patches vary.

Brightness varies far more than fine detail: among the directions of the shapes world's patches variances span
22,000 : 1, so that a patch embedding drawn at random shows next to nothing of noise, blur and edges, and a network from
scratch takes thousands of steps to find them. Of whitened patches all directions weigh about alike.
"""

import numpy as np
from jaxtyping import Float32

_FLOOR = 0.2  # of the mean variance, added to each: directions that hardly vary are not blown up


def whitening_kernel(
    patches: Float32[np.ndarray, "n values"], features: int, seed: int
) -> Float32[np.ndarray, "values {features}"]:
    """Kernel of a patch embedding whose features are random mixtures of the whitened patches.

    They have mean square 1 over `patches` less their mean.
    """
    centred = (patches - patches.mean(axis=0)).astype(np.float64)
    variance, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    scaled = directions / np.sqrt(np.maximum(variance, 0) + _FLOOR * variance.mean())
    kernel = scaled @ np.random.default_rng(seed).standard_normal((len(variance), features))
    return (kernel / np.sqrt(np.mean((centred @ kernel) ** 2))).astype(np.float32)
