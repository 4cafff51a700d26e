"""Duplicates among edits: which are equal, which look equal, and which one of them stays. Pure functions of arrays.

Similar hashes are found without comparing all pairs. Two hashes that differ in at most k bits agree in at least one of
k + 1 bands of bits (pigeonhole), so only hashes with an equal band are compared.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt64

Numbers = Int[np.ndarray, " n"]
Some = Int[np.ndarray, " m"]  # numbers of some of n edits
Hashes = UInt64[np.ndarray, "n 4"]  # 256 bits each

MAX_BITS = 31  # beyond, bands have less than 8 bits, and almost all pairs would be compared
_WORD = 64
_BITS = 256
_ODD = np.uint64(0x9E3779B97F4A7C15)  # spreads the bits of a number (Knuth's multiplicative hashing)


class Duplicates(NamedTuple):
    """For each edit the one that stays in its place; -1: it stays itself."""

    exact: Numbers
    near: Numbers


def find_duplicates(
    order: Some,
    request: UInt64[np.ndarray, " n"],
    digests: UInt64[np.ndarray, "n 4"],
    hashes: UInt64[np.ndarray, "n 2 4"],
    bits: int,
) -> Duplicates:
    """The duplicates among the edits `order`, best first.

    From the best to the worst, an edit is dropped if an edit that stays has the same request and the same image files
    (exact), or the same request and source and edited images whose hashes differ in at most `bits` bits each (near).
    Chains do not count: if B is dropped for A, C is not dropped because it resembles B.

    Args:
      request, digests: equal for equal instructions and for equal files (source and edited, 128 bits each).
      hashes: of the source and the edited image.
      bits: 0..31; -1: only exact duplicates.
    """
    exact, near = (np.full(len(request), -1) for _ in range(2))
    order = _drop_equal(order, np.column_stack([request, digests]), exact)
    if bits >= 0:
        # Equal hashes first: a picture that was stored a thousand times is then one candidate, not a million pairs.
        order = _drop_equal(order, np.column_stack([request, hashes.reshape(len(hashes), 8)]), near)
    if bits > 0:
        kept = _greedy(similar_pairs(request[order], hashes[order], bits), len(order))
        near[order[kept >= 0]] = order[kept[kept >= 0]]
    return Duplicates(exact, near)


def _drop_equal(order: Some, columns: UInt64[np.ndarray, "n k"], twins: Numbers) -> Int[np.ndarray, " left"]:
    """Of the edits `order` with equal columns only the first; `twins` gets it for the others."""
    group = group_numbers(columns[order])
    first = np.unique(group, return_index=True)[1][group]
    is_first = first == np.arange(len(order))
    twins[order[~is_first]] = order[first[~is_first]]
    return order[is_first]


def group_numbers(columns: UInt64[np.ndarray, "n k"]) -> Numbers:
    """A number 0.. for each row; equal rows have equal numbers."""
    # np.unique(axis=0) compares rows as structures, which takes five times as long as sorting by columns.
    by_row = np.lexsort(columns.T)
    ordered = columns[by_row]
    starts = np.ones(len(columns), bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    numbers = np.empty(len(columns), int)
    numbers[by_row] = np.cumsum(starts) - 1
    return numbers


def similar_pairs(
    request: UInt64[np.ndarray, " n"], hashes: UInt64[np.ndarray, "n 2 4"], bits: int
) -> Int[np.ndarray, "m 2"]:
    """All pairs i < j with the same request and at most `bits` differing bits in both images, sorted by j, then i."""
    if not 0 < bits <= MAX_BITS:
        raise ValueError(f"{bits} bits: expected 1..{MAX_BITS}.")
    found = [np.empty(0, int)]
    # Bands of the edited image: the edits of one source have equal source hashes, which tell nothing.
    for band in _bands(hashes[:, 1], bits + 1):
        # Edits of other requests may get an equal key by chance; they are sorted out below.
        for i, j in _equal_pairs(band * _ODD ^ request):
            similar = request[i] == request[j]
            for image in (1, 0):
                i, j = i[similar], j[similar]
                similar = _distance(hashes[i, image], hashes[j, image]) <= bits
            i, j = i[similar], j[similar]
            found.append(np.maximum(i, j) * len(request) + np.minimum(i, j))
    # A pair is found once for each band in which it agrees.
    return np.column_stack(np.divmod(np.unique(np.concatenate(found)), len(request)))[:, ::-1]


def _distance(a: Hashes, b: Hashes) -> Numbers:
    return np.bitwise_count(a ^ b).sum(axis=-1, dtype=int)


def _bands(hashes: Hashes, count: int) -> Iterator[UInt64[np.ndarray, " n"]]:
    """The hashes cut into `count` bands of bits; of each band at most 64 bits."""
    edges = np.linspace(0, _BITS, count + 1).astype(int)
    for start, stop in pairwise(edges.tolist()):
        word, shift = divmod(start, _WORD)
        band = hashes[:, word] >> np.uint64(shift)
        if shift and word + 1 < hashes.shape[1]:
            band |= hashes[:, word + 1] << np.uint64(_WORD - shift)
        width = min(stop - start, _WORD)
        yield band & np.uint64(2**width - 1)


def _equal_pairs(keys: UInt64[np.ndarray, " n"]) -> Iterator[tuple[Numbers, Numbers]]:
    """All pairs of positions with equal keys, in portions of at most n pairs."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    # Of each position in sorted order, where its run of equal keys ends.
    ends = np.searchsorted(ordered, ordered, side="right")
    left, offset = np.arange(len(keys)), 1
    while len(left := left[left + offset < ends[left]]):
        yield order[left], order[left + offset]
        offset += 1


def _greedy(pairs: Int[np.ndarray, "m 2"], count: int) -> Numbers:
    """For each number the first kept one that it is paired with; -1: it is kept. `pairs` as `similar_pairs` returns."""
    replaced = np.full(count, -1)
    # Sorted by the later number: whether the earlier one is kept is known when the pair is reached.
    for i, j in pairs.tolist():
        if replaced[i] < 0 and replaced[j] < 0:
            replaced[j] = i
    return replaced
