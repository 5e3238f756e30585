"""FP32 rules against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skipopu.numerics import fp32

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


def nearest(exact: Fraction) -> np.float32:
    """The rule written down: flush below 2^-126, round to 24 bits, ties to even, saturate."""
    if abs(exact) < Fraction(2) ** -126:
        return np.float32(0)
    exponent = 0
    magnitude = abs(exact)
    while magnitude >= 2:
        magnitude, exponent = magnitude / 2, exponent + 1
    while magnitude < 1:
        magnitude, exponent = magnitude * 2, exponent - 1
    scaled = magnitude * 2**23
    mantissa = round(scaled)  # Python rounds ties to even
    value = Fraction(mantissa) * Fraction(2) ** (exponent - 23)
    return np.float32(min(value, Fraction(float(fp32.LARGEST))) * (1 if exact > 0 else -1))


@given(numbers, numbers)
def test_multiply_and_add(a: float, b: float) -> None:
    assert fp32.multiply(np.float32(a), np.float32(b)) == nearest(Fraction(a) * Fraction(b))
    assert fp32.add(np.float32(a), np.float32(b)) == nearest(Fraction(a) + Fraction(b))


@given(st.integers(-(2**62) + 1, 2**62 - 1), st.integers(-220, 100))
def test_from_integer(mantissa: int, exponent: int) -> None:
    assert fp32.from_integer(mantissa, exponent) == nearest(Fraction(mantissa) * Fraction(2) ** exponent)


def test_tiny_results_just_below_the_smallest_normal_flush() -> None:
    # Rounding first would give 2^-126.
    a, b = np.float32(1 - 2.0**-24), np.float32(2.0**-126)
    assert fp32.multiply(a, b) == 0


def test_overflow_saturates_and_sets_the_sticky_bit() -> None:
    with fp32.Saturation() as outer, fp32.Saturation() as inner:
        assert fp32.multiply(np.float32(1e18), np.float32(-1e18)) == np.float32(-1e36)
        assert not inner.seen
        assert fp32.multiply(np.float32(1e38), np.float32(-1e38)) == -fp32.LARGEST
    assert inner.seen
    assert outer.seen
    with fp32.Saturation() as later:
        pass
    assert not later.seen
