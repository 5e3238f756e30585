"""FP32 units in Verilator against integers, a million operands each that meet the corners often."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Cat

from hw.arithmetic.fp32 import Add, AddPositive, FromInteger, Multiply, fp32_to_half_word, half_word_to_fp32
from tests.hw.arithmetic.compiled import run
from tests.hw.arithmetic.operands import Registered
from tests.numerics import directed, exact
from tests.numerics.directed import COUNT
from tests.numerics.exact import differing

pytestmark = pytest.mark.rtl


def gates(seed: int) -> np.ndarray:
    """Bits of each operand set."""
    return np.random.default_rng(seed).integers(0, 2, COUNT)


def test_add_and_subtract(tmp_path: Path) -> None:
    a, b = directed.terms(11, COUNT)
    subtract, valid = gates(12), gates(13)
    expected = exact.total(a, b ^ (subtract << 31).astype(np.uint32))
    given = {"a": a, "b": b, "subtract": subtract, "valid": valid}
    z, saturated = run(Add(), given, ["z", "saturated"], Add.LATENCY, tmp_path)
    differing(z, expected.bits, a, b, subtract)
    differing(saturated, expected.saturated & valid, a, b, subtract, valid)


def test_add_positive(tmp_path: Path) -> None:
    a, b = (terms & 0x7FFFFFFF for terms in directed.terms(18, COUNT))
    valid = gates(19)
    expected = exact.total(a, b)
    z, saturated = run(AddPositive(), {"a": a, "b": b, "valid": valid}, ["z", "saturated"], AddPositive.LATENCY, tmp_path)
    differing(z, expected.bits, a, b)
    differing(saturated, expected.saturated & valid, a, b, valid)


def test_multiply(tmp_path: Path) -> None:
    a, b = directed.factors(14, COUNT)
    valid = gates(15)
    expected = exact.product(a, b)
    z, saturated = run(Multiply(), {"a": a, "b": b, "valid": valid}, ["z", "saturated"], Multiply.LATENCY, tmp_path)
    differing(z, expected.bits, a, b)
    differing(saturated, expected.saturated & valid, a, b, valid)


@pytest.mark.parametrize("width", [24, 40, 64])
def test_from_integer(width: int, tmp_path: Path) -> None:
    """Narrower than what rounding takes, the accumulators' own, and as wide as a word."""
    mantissa, exponent = directed.integers(100 + width, COUNT, width)
    valid = gates(16)
    expected = exact.number(mantissa, exponent)
    given = {"mantissa": mantissa, "exponent": exponent, "valid": valid}
    z, saturated = run(FromInteger(width), given, ["z", "saturated"], FromInteger.LATENCY, tmp_path)
    differing(z, expected.bits, mantissa, exponent)
    differing(saturated, expected.saturated & valid, mantissa, exponent, valid)


def test_fp32_to_half(tmp_path: Path) -> None:
    x = directed.for_halves(17, COUNT)
    expected, saturated = exact.half(x)
    dut = Registered(lambda m, i: Cat(*fp32_to_half_word(m, i, "half")), [32], 17)
    (seen,) = run(dut, {"inputs_0": x}, ["output"], 2, tmp_path)
    differing(seen, expected.astype(np.uint32) | saturated.astype(np.uint32) << 16, x)


def test_half_to_fp32(tmp_path: Path) -> None:
    """All FP16 numbers there are."""
    h = np.arange(1 << 16, dtype=np.uint16)
    h = h[h & 0x7C00 != 0x7C00]
    (seen,) = run(Registered(partial(half_word_to_fp32, name="half"), [16], 32), {"inputs_0": h}, ["output"], 1, tmp_path)
    differing(seen, exact.from_half(h), h)
