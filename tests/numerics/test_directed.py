"""FP32 and FP16 rules against integers, a million operands of each operation that meet the corners often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skipopu.numerics import fp16, fp32
from skipopu.numerics.fp32 import Saturation
from tests.numerics import directed, exact
from tests.numerics.directed import COUNT
from tests.numerics.exact import Exact, Flags, differing

ENOUGH = COUNT // 1000  # of each corner


def saturates(operation: Callable[..., object], operands: Sequence[NDArray[Any]], saturated: Flags) -> None:
    """The sticky bit: of all that do not saturate together, of some that do each by itself."""
    with Saturation() as none:
        operation(*(operand[~saturated] for operand in operands))
    assert not none.seen
    for k in np.flatnonzero(saturated)[:200]:
        with Saturation() as one:
            operation(*(operand[k : k + 1] for operand in operands))
        assert one.seen


def meets_every_corner(result: Exact, zeros: bool) -> None:
    """The operands give enough of each case, of both signs and, where one number is even, on both sides of it."""
    negative, odd = result.bits >> 31 == 1, result.bits & 1 == 1
    cases = {"saturated": result.saturated, "tiny": result.tiny, "carried": result.carried, "tie": result.tie & ~odd}
    if zeros:
        cases["zero"] = ~result.tiny & (result.bits & 0x7FFFFFFF == 0)
    for name, case in cases.items():
        for sign in (negative, ~negative):
            assert (case & sign).sum() > ENOUGH // 4, name


def test_add() -> None:
    a, b = directed.terms(1, COUNT)
    expected = exact.total(a, b)
    meets_every_corner(expected, zeros=True)
    operands = a.view(np.float32), b.view(np.float32)
    differing(fp32.bits(fp32.add(*operands)), expected.bits, a, b)
    saturates(fp32.add, operands, expected.saturated)


def test_multiply() -> None:
    a, b = directed.factors(2, COUNT)
    expected = exact.product(a, b)
    meets_every_corner(expected, zeros=True)
    operands = a.view(np.float32), b.view(np.float32)
    differing(fp32.bits(fp32.multiply(*operands)), expected.bits, a, b)
    saturates(fp32.multiply, operands, expected.saturated)


@pytest.mark.parametrize("width", [24, 47, 63])
def test_from_integer(width: int) -> None:
    mantissa, exponent = directed.integers(width, COUNT, width)
    expected = exact.number(mantissa, exponent)
    if width > 24:
        meets_every_corner(expected, zeros=False)
    differing(fp32.bits(fp32.from_integer(mantissa, exponent)), expected.bits, mantissa, exponent)
    saturates(fp32.from_integer, (mantissa, exponent), expected.saturated)


def test_half_precision_both_ways() -> None:
    x = directed.for_halves(3, COUNT)
    expected, saturated = exact.half(x)
    differing(fp16.from_fp32(x.view(np.float32)).view(np.uint16), expected, x)
    saturates(fp16.from_fp32, (x.view(np.float32),), saturated)
    h = np.arange(1 << 16, dtype=np.uint16)
    h = h[h & 0x7C00 != 0x7C00]
    differing(h.view(np.float16).astype(np.float32).view(np.uint32), exact.from_half(h), h)
