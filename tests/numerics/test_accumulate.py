"""Two sums in one register of 48 bits, and eight bits beside it."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skipopu.numerics.accumulate import SIDE_BITS, SPACING, SUM_BITS, TERMS, WIDTH, accumulated, apart
from skipopu.numerics.align import ALIGNED_BITS
from skipopu.numerics.fp32 import I64

LARGEST = (1 << ALIGNED_BITS - 1) - 1
EXTREMES = np.array([-8, -7, -1, 0, 1, 7])


def exact(x: I64, lower: I64, upper: I64) -> None:
    for seen, weights in zip(apart(*accumulated(x, lower, upper)), (lower, upper), strict=True):
        assert np.array_equal(seen, (weights * x).sum(-1))


@given(st.integers(0, 1 << 30), st.integers(1, TERMS), st.sampled_from([0.0, 0.3, 1.0]))
def test_sums_come_apart(seed: int, terms: int, extreme: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-LARGEST, LARGEST + 1, (50, terms))
    weights = rng.integers(-8, 8, (2, 50, terms))
    chosen = rng.random((3, 50, terms)) < extreme
    x = np.where(chosen[0], rng.choice([-LARGEST, LARGEST], x.shape), x)
    exact(x, *np.where(chosen[1:], rng.choice(EXTREMES, weights.shape), weights))


def test_every_pair_of_extremes_in_every_share() -> None:
    """All ends of both sums: n terms of one pair of weights and sign, the others of another."""
    pairs = np.array(list(itertools.product(EXTREMES, EXTREMES, (-LARGEST, LARGEST))))
    first, second = (part.reshape(-1, 3) for part in np.broadcast_arrays(pairs[:, None], pairs[None]))
    for share in (0, 1, 63, 64, 127, 128):
        every = np.where((np.arange(TERMS) < share)[None, :, None], first[:, None], second[:, None])
        exact(every[..., 2], every[..., 0], every[..., 1])


def test_every_residue_beside_every_border() -> None:
    """Sums next to multiples of 2^20, where the second one borrows, and all 2^8 values beside them."""
    lower = np.arange(-(1 << SUM_BITS - 1), 1 << SUM_BITS - 1, 1 << SPACING)[:, None] + np.arange(-2, 3)
    lower = lower.reshape(-1, 1)[lower.reshape(-1) >= -(1 << SUM_BITS - 1)]
    ends = np.array([-(1 << SUM_BITS - 1), (1 << SUM_BITS - 1) - 1])
    upper = np.concatenate([np.arange(-256, 257), ends])[None]
    total = (upper << SPACING) + lower & (1 << WIDTH) - 1
    seen = apart(total, upper & (1 << SIDE_BITS) - 1)
    assert (seen[0] == lower).all()
    assert (seen[1] == upper).all()


def test_the_largest_group_fits_and_seven_bits_beside_it_do_not() -> None:
    largest = TERMS * LARGEST * 8
    assert largest < 1 << SUM_BITS - 1
    assert 2 * SUM_BITS == WIDTH + SIDE_BITS
