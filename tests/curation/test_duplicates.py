"""Duplicates by digests and hashes, against a comparison of all pairs."""

import time

import numpy as np
import pytest

from rewardedit_jax.curation.duplicates import find_duplicates, group_numbers, similar_pairs


def hashes_of(rng, n):
    return rng.integers(0, 2**64, (n, 2, 4), dtype=np.uint64)


def flipped(rng, hashes, bits):
    """The hashes (n, 4) with so many random bits changed in each."""
    result = hashes.copy()
    for row in result:
        for bit in rng.choice(256, bits, replace=False):
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    return result


def clusters(rng, n, bits):
    """Hashes around a few centres, at distances up to twice the bits, and two requests."""
    centres = hashes_of(rng, 5)[rng.integers(0, 5, n)]
    for image in (0, 1):
        for i in range(n):
            centres[i : i + 1, image] = flipped(rng, centres[i : i + 1, image], int(rng.integers(0, bits + 1)))
    return centres, rng.integers(0, 2, n).astype(np.uint64)


def all_similar(request, hashes, bits):
    n = len(request)
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(-1).max(-1)
    return [(i, j) for j in range(n) for i in range(j) if request[i] == request[j] and distance[i, j] <= bits]


@pytest.mark.parametrize("bits", [1, 2, 6, 13, 31])
def test_all_similar_pairs_are_found_and_no_others(bits):
    hashes, request = clusters(np.random.default_rng(bits), 60, bits)
    expected = all_similar(request, hashes, bits)
    assert len(expected) > 20
    assert similar_pairs(request, hashes, bits).tolist() == [list(pair) for pair in expected]


def test_bands_reach_all_bits():
    """A pair is found wherever its differing bits lie."""
    rng = np.random.default_rng(0)
    first = hashes_of(rng, 1)
    for bit in range(256):
        other = first.copy()
        other[0, :, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
        pair = np.concatenate([first, other])
        assert similar_pairs(np.zeros(2, np.uint64), pair, 1).tolist() == [[0, 1]]


def find(order, request, digests, hashes, bits=4):
    found = find_duplicates(np.array(order), *(np.asarray(x, np.uint64) for x in (request, digests)), hashes, bits)
    return found.exact.tolist(), found.near.tolist()


def test_the_best_of_equal_edits_stays():
    hashes = hashes_of(np.random.default_rng(0), 4)
    digests = [[1] * 4, [1] * 4, [1] * 4, [2] * 4]
    assert find([2, 3, 0, 1], [7, 7, 7, 7], digests, hashes) == ([2, 2, -1, -1], [-1] * 4)
    # Another request is another edit.
    assert find([2, 3, 0, 1], [7, 8, 7, 7], digests, hashes) == ([2, -1, -1, -1], [-1] * 4)


def test_the_best_of_similar_edits_stays_and_chains_do_not_count():
    rng = np.random.default_rng(0)
    a = hashes_of(rng, 1)
    b, c = a.copy(), a.copy()
    b[0, 1, 0] ^= np.uint64(0b1111)
    c[0, 1, 0] ^= np.uint64(0b11111111)  # 4 bits from b, 8 from a
    hashes, digests = np.concatenate([a, b, c]), [[i] * 4 for i in range(3)]
    assert find([0, 1, 2], [0] * 3, digests, hashes)[1] == [-1, 0, -1]
    assert find([1, 2, 0], [0] * 3, digests, hashes)[1] == [1, -1, 1]
    assert find([0, 2, 1], [0] * 3, digests, hashes)[1] == [-1, 0, -1]
    assert find([0, 1, 2], [0] * 3, digests, hashes, bits=-1)[1] == [-1] * 3


@pytest.mark.parametrize("image", [0, 1])
def test_both_images_must_be_similar(image):
    rng = np.random.default_rng(0)
    pair = np.repeat(hashes_of(rng, 1), 2, axis=0)
    pair[1:, image] = flipped(rng, pair[1:, image], 5)
    digests = [[0] * 4, [1] * 4]
    assert find([0, 1], [0, 0], digests, pair, bits=4)[1] == [-1, -1]
    assert find([0, 1], [0, 0], digests, pair, bits=5)[1] == [-1, 0]


def test_equal_hashes_are_near_with_zero_bits():
    pair = np.repeat(hashes_of(np.random.default_rng(0), 1), 2, axis=0)
    assert find([1, 0], [0, 0], [[0] * 4, [1] * 4], pair, bits=0) == ([-1, -1], [1, -1])


def test_edits_outside_the_order_take_no_part():
    hashes = np.repeat(hashes_of(np.random.default_rng(0), 1), 3, axis=0)
    assert find([2, 1], [0] * 3, [[0] * 4] * 3, hashes) == ([-1, 2, -1], [-1] * 3)
    assert find(np.empty(0, int), [0] * 3, [[0] * 4] * 3, hashes) == ([-1] * 3, [-1] * 3)


def test_equal_rows_have_equal_numbers():
    columns = np.random.default_rng(0).integers(0, 3, (200, 3)).astype(np.uint64)
    numbers = group_numbers(columns)
    assert (
        len(set(numbers)) == len(set(map(tuple, columns))) == len(set(zip(numbers, map(tuple, columns), strict=True)))
    )


@pytest.mark.slow
def test_a_million_hashes_of_one_instruction():
    """Every pair would be 5·10¹¹ comparisons."""
    rng, n, planted = np.random.default_rng(0), 1_000_000, 1000
    hashes, digests = hashes_of(rng, n), rng.integers(0, 2**64, (n, 4), dtype=np.uint64)
    kept, near, beyond, exact = rng.permutation(n)[: 4 * planted].reshape(4, planted)
    for image in (0, 1):
        hashes[near, image] = flipped(rng, hashes[kept, image], 6)
        hashes[beyond, image] = flipped(rng, hashes[kept, image], 7)
    hashes[exact], digests[exact] = hashes[kept], digests[kept]
    order = np.concatenate([kept, np.setdiff1d(np.arange(n), kept)])
    start = time.monotonic()
    found = find_duplicates(order, np.zeros(n, np.uint64), digests, hashes, 6)
    assert time.monotonic() - start < 60
    assert np.array_equal(np.flatnonzero(found.exact >= 0), np.sort(exact))
    assert np.array_equal(found.exact[exact], kept)
    # By chance, `near` and `beyond` of one edit may resemble each other, but `beyond` never resembles what is kept.
    assert np.array_equal(found.near[near], kept)
    assert not np.isin(found.near[beyond], kept).any()
