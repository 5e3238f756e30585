"""Capped scores against the formula."""

from __future__ import annotations

import numpy as np
import pytest

from skipopu.numerics import soft_cap
from skipopu.numerics.tables import exp2_negative

CAPS = (soft_cap.LEAST, 0.7, 30.0, 50.0, soft_cap.LARGEST)
ROUNDING = 2 * 2.0**-25  # of sigmoid and of the product, at most 1 and F
MOST = 0.0032  # of a probability, what the largest cap may move it by


@pytest.mark.parametrize("cap", CAPS)
def test_differences_are_those_of_the_formula(cap: float) -> None:
    """In powers of two: F off by the factor's rounding, each value by sigmoid's error."""
    x = np.concatenate([np.linspace(-20, 20, 100001), np.exp(np.linspace(-30, 80, 5001))]).astype(np.float32)
    factor = soft_cap.factor(cap)
    scores = x.astype(float) / soft_cap.argument(cap)
    exact = cap * np.tanh(scores / cap) * np.log2(np.e)
    off = soft_cap.capped(x, factor).astype(float) - (exact + float(factor) / 2)
    assert np.abs(off).max() <= float(factor) * (soft_cap.ERROR + ROUNDING + 2.0**-24)
    assert np.abs(off).max() > float(factor) * soft_cap.ERROR / 16, "the stated bound is loose"
    assert np.log(2) * 2 * float(factor) * (soft_cap.ERROR + ROUNDING) < MOST * cap / soft_cap.LARGEST


def test_it_grows_with_the_score() -> None:
    """Up to the table's steps: the largest score's probability is 1, no other's is more by them than rounding hides."""
    x = np.sort((np.random.default_rng(0).standard_normal(100000) * 6).astype(np.float32))
    y = soft_cap.capped(x, soft_cap.factor(soft_cap.LARGEST)).astype(float)
    assert (np.diff(y) >= -2 * float(soft_cap.factor(soft_cap.LARGEST)) * (soft_cap.ERROR + ROUNDING)).all()
    assert exp2_negative(np.zeros(1, np.float32))[0] == 1 << 24


def test_beyond_the_table_scores_are_alike() -> None:
    ends = soft_cap.capped(np.array([16, 1e9, 3e38, -16, -1e9, -3e38], np.float32), np.float32(100))
    assert len(set(ends[:3])) == len(set(ends[3:])) == 1
    assert abs(float(ends[0]) - 100) < 1e-4
    assert abs(float(ends[3])) < 1e-4
