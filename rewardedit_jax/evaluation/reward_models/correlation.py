"""Spearman's rank correlation, and what is made of several."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float, Num

_ALMOST_ONE = 1 - 1e-6  # where Fisher's transform is still finite
_FLAT = 1e-6  # below this standard deviation, published z-scores are 0


def spearman(a: Num[np.ndarray, " n"], b: Num[np.ndarray, " n"]) -> float:
    """Correlation of the ranks, equal values having the mean of their ranks; NaN where either is constant."""
    a, b = _centred_ranks(a), _centred_ranks(b)
    spread = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / spread) if spread else float("nan")


def _centred_ranks(values: Num[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    # Faster than np.unique on the few hundred values that a bootstrap ranks thousands of times.
    inorder = np.sort(values)
    below, up_to = (np.searchsorted(inorder, values, side) for side in ("left", "right"))
    return (below + up_to - len(values)) / 2


def published_mean(correlations: Sequence[float] | np.ndarray) -> float:
    """ImagenHub's mean as published by VIEScore and EditReward: tanh of the plain mean.

    It is meant as the way back from Fisher's transform, which was never gone there: 0.40 becomes 0.38. One undefined
    correlation makes it NaN.
    """
    return float(np.tanh(np.mean(correlations)))


def fisher_mean(correlations: Sequence[float] | np.ndarray) -> float:
    """Mean through Fisher's transform, tanh(mean(arctanh(r))).

    Undefined correlations (NaN, of constant scores) count as 0, so that who says the same of everything gains
    nothing; ±1 is held at ±(1 - 1e-6), where the transform is finite.
    """
    held = np.clip(np.nan_to_num(np.asarray(correlations, np.float64)), -_ALMOST_ONE, _ALMOST_ONE)
    return float(np.tanh(np.arctanh(held).mean()))


def per_prompt_spearman(
    human: Float[np.ndarray, " n"], scores: Float[np.ndarray, " n"], prompts: Sequence[Hashable]
) -> float:
    """`imagenhub_bench_v2`, first number: mean over prompts, undefined ones and single edits left out; else 0."""
    within = [spearman(scores[at], human[at]) for at in _groups(prompts)]
    return float(np.mean(defined)) if (defined := [r for r in within if not np.isnan(r)]) else 0.0


def z_scored_spearman(
    human: Float[np.ndarray, " n"], scores: Float[np.ndarray, " n"], prompts: Sequence[Hashable]
) -> float:
    """`imagenhub_bench_v2`, second number and its result: over all edits, scores standardised within their prompt."""
    groups = _groups(prompts)
    if not groups:
        return 0.0
    standard = [_standardised(scores[at]) for at in groups]
    return float(np.nan_to_num(spearman(np.concatenate(standard), human[np.concatenate(groups)])))


def _standardised(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > _FLAT else np.zeros_like(scores)


def _groups(prompts: Sequence[Hashable]) -> list[np.ndarray]:
    """Numbers of the items of each prompt that has at least two."""
    of_prompt: dict[Hashable, list[int]] = {}
    for i, prompt in enumerate(prompts):
        of_prompt.setdefault(prompt, []).append(i)
    return [np.asarray(members) for members in of_prompt.values() if len(members) > 1]
