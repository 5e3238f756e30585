"""Dividers of the ULX3S' PLL."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boards.open.pll import CLOCK_MHZ, COMPARED_MHZ, MOST, VCO_MHZ, dividers
from skipopu.errors import SkipopuError


def test_known_dividers() -> None:
    """By hand: the inner oscillator at 600 MHz where 25 divides it, else as near as may be."""
    assert dividers(25, 60) == (1, 24, 10)
    assert dividers(25, 25) == (1, 24, 24)
    assert dividers(25, 52.5) == (1, 21, 10)
    assert dividers(25, 61) == (5, 122, 10)


@given(st.integers(1, 4000))
def test_the_clock_is_exact_or_refused(quarters: int) -> None:
    clock = Fraction(quarters, 4)
    possible = any(
        VCO_MHZ[0] <= clock * output <= VCO_MHZ[1] and (clock * output * source / 25).denominator == 1
        for source in range(1, 9)
        for output in range(1, MOST + 1)
        if clock * output * source / 25 <= MOST
    )
    if possible and CLOCK_MHZ[0] <= clock <= CLOCK_MHZ[1]:
        source, feedback, output = dividers(25, float(clock))
        assert Fraction(25 * feedback, source * output) == clock
        assert VCO_MHZ[0] <= 25 * feedback / source <= VCO_MHZ[1]
        assert 25 / source >= COMPARED_MHZ[0]
        assert max(source, feedback, output) <= MOST
    else:
        with pytest.raises(SkipopuError, match=f"the PLL makes no {float(clock):.8g} MHz of 25; accepted: "):
            dividers(25, float(clock))


def test_the_nearest_clocks_are_named() -> None:
    with pytest.raises(SkipopuError, match="the PLL makes no 401 MHz of 25; accepted: 400, among others"):
        dividers(25, 401)
    with pytest.raises(SkipopuError, match=r"the PLL makes no 60.01 MHz of 25; accepted: 60 or 60\.0\d+, among others"):
        dividers(25, 60.01)


@given(st.floats(5, 399))
def test_what_is_named_is_accepted(clock: float) -> None:
    try:
        dividers(25, clock)
    except SkipopuError as error:
        for named in re.findall(r"accepted: ([\d.]+) or ([\d.]+), among", str(error))[0]:
            assert dividers(25, float(named))
