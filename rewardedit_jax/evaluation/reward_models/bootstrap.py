"""How sure a measure is: intervals over resampled items."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

DRAWS = 1000
LEVEL = 0.95


def bootstrap_interval(
    statistic: Callable[[Int[np.ndarray, " n"]], float], n: int, seed: int, draws: int = DRAWS
) -> tuple[float, float]:
    """Percentile interval that holds 95 % of the statistic's values over resampled items.

    Args:
      statistic: of the chosen items, given by their numbers 0..n-1, of which some come repeatedly and some not.
      n: how many items there are.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(0, n, n)) for _ in range(draws)]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
