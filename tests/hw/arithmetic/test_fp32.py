"""FP32 units against the numerics, bit for bit: random operands, cancellation, ties, subnormal results, overflow."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from hw.arithmetic.fp32 import Add, FromInteger, Multiply, fp32_to_half_word, half_word_to_fp32, order
from skipopu.numerics import fp16, fp32
from tests.hw.arithmetic.operands import RNG, function, halves, numbers
from tests.hw.bench import pipeline

COUNT = 500


def binary(unit: type[Add | Multiply], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Holds ``unit`` against the numerics, valid operands among others; the results."""
    dut = unit()
    model, ieee = (fp32.add, np.add) if unit is Add else (fp32.multiply, np.multiply)
    x, y = (fp32.flush(v.view(np.float32)) for v in (a, b))
    expected = fp32.bits(model(x, y))
    with np.errstate(over="ignore", under="ignore"):
        saturated = np.isinf(ieee(x, y))
    valid = RNG.integers(0, 2, len(a))
    results = [(dut.z, expected), (dut.saturated, saturated & valid)]
    pipeline(dut, [(dut.a, a), (dut.b, b), (dut.valid, valid)], results, unit.LATENCY)
    return expected


def test_multiply() -> None:
    binary(Multiply, numbers(COUNT), numbers(COUNT))


@pytest.mark.parametrize("unit", [Add, Multiply])
def test_subnormal_operands_are_zeros_of_their_sign(unit: type[Add | Multiply]) -> None:
    a, b = numbers(COUNT // 2), numbers(COUNT // 2)
    for x, step in ((a, 2), (b, 3)):
        x[::step] &= 0x807FFFFF
    binary(unit, a, b)


def close(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Operands whose sums often cancel."""
    a, b = numbers(count), numbers(count)
    b[::5] = a[::5] ^ 0x80000000
    near = (a[1::5] ^ 0x80000000).astype(np.int64) + RNG.integers(-3, 4, len(a[1::5]))
    b[1::5] = near.astype(np.uint32)
    exponent = b >> 23 & 255
    return a, np.where((exponent == 255) | (exponent == 0), b & 0x80000000, b).astype(np.uint32)


def test_add_with_cancellation() -> None:
    binary(Add, *close(COUNT))


def test_subtract() -> None:
    a, b = close(COUNT)
    subtract = RNG.integers(0, 2, COUNT)
    expected = fp32.add(a.view(np.float32), (b ^ (subtract << 31).astype(np.uint32)).view(np.float32))
    dut = Add()
    pipeline(dut, [(dut.a, a), (dut.b, b), (dut.subtract, subtract)], [(dut.z, fp32.bits(expected))], Add.LATENCY)


SPECIAL = np.array(
    [
        *(0x00000000, 0x00000001, 0x007FFFFF, 0x00800000, 0x00800001, 0x00FFFFFF, 0x33800000, 0x34000000),
        *(0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3FFFFFFF, 0x40000000, 0x4B800000, 0x4B7FFFFF, 0x4B000001),
        *(0x73000000, 0x7E800000, 0x7EFFFFFF, 0x7F000000, 0x7F7FFFFE, 0x7F7FFFFF),
    ],
    np.uint32,
)


@pytest.mark.parametrize("unit", [Multiply, Add])
def test_signed_zeros_subnormals_ties_and_overflow(unit: type[Add | Multiply]) -> None:
    """All pairs of special numbers and signs. Subnormal operands count as zero; what IEEE makes infinite saturates."""
    every = np.concatenate([SPECIAL, SPECIAL | np.uint32(1 << 31)])
    a, b = (v.reshape(-1) for v in np.meshgrid(every, every))
    seen = binary(unit, a, b)
    x, y = (np.where(v & 0x7F800000, v, v & 0x80000000).astype(np.uint32).view(np.float32) for v in (a, b))
    with np.errstate(all="ignore"):
        ieee = x + y if unit is Add else x * y
    infinite = np.isinf(ieee)
    assert infinite.any()
    assert (seen[infinite] & 0x7FFFFFFF == 0x7F7FFFFF).all()
    normal = np.isfinite(ieee) & (np.abs(ieee) >= np.float32(2.0**-125))
    assert (seen[normal] == fp32.bits(ieee[normal])).all()


def test_an_infinite_operand_saturates() -> None:
    """Infinities are not numbers of the machine; a pattern that looks like one behaves as 2^128."""
    b = fp32.bits(np.array([1, -1, 3, 2, 1e30, -4, 1.5], np.float32))
    dut = Multiply()
    results = [(dut.z, b & 0x80000000 | 0x7F7FFFFF), (dut.saturated, [1] * len(b))]
    pipeline(dut, [(dut.a, [0x7F800000] * len(b)), (dut.b, b), (dut.valid, [1] * len(b))], results, Multiply.LATENCY)


@pytest.mark.parametrize("width", [32, 47, 64])
def test_from_integer(width: int) -> None:
    drop = RNG.integers(0, width - 2, COUNT)
    mantissa = RNG.integers(-(2 ** (width - 2)), 2 ** (width - 2), COUNT) >> drop
    exponent = RNG.integers(-230, 90, COUNT)
    edge = RNG.integers(0, 3, COUNT) == 0
    exponent = np.where(edge, -126 - (width - 2) + drop + RNG.integers(-2, 3, COUNT), exponent)
    dut = FromInteger(width)
    results = [(dut.z, fp32.bits(fp32.from_integer(mantissa, exponent)))]
    pipeline(dut, [(dut.mantissa, mantissa), (dut.exponent, exponent)], results, FromInteger.LATENCY)


def test_half_precision_both_ways() -> None:
    x = numbers(COUNT)
    x[::2] = RNG.integers(90, 145, len(x[::2])).astype(np.uint32) << 23 | x[::2] & 0x807FFFFF
    x[::6] = x[::6] & 0xFFFFE000 | 0x1000  # ties
    expected = fp16.from_fp32(x.view(np.float32)).view(np.uint16)
    function(lambda m, i: fp32_to_half_word(m, i, "h")[0], [(32, x)], 16, expected, latency=1)
    with np.errstate(over="ignore"):
        beyond = np.isinf(x.view(np.float32).astype(np.float16))
    function(lambda m, i: fp32_to_half_word(m, i, "h")[1], [(32, x)], 1, beyond, latency=1)
    h = halves(COUNT)
    function(partial(half_word_to_fp32, name="h"), [(16, h)], 32, h.view(np.float16).astype(np.float32).view(np.uint32))


def test_order() -> None:
    a, b = numbers(COUNT), numbers(COUNT)
    b[::3] = a[::3] ^ RNG.integers(0, 2, len(a[::3])).astype(np.uint32)
    larger = a.view(np.float32) > b.view(np.float32)
    function(lambda m, x, y: order(x) > order(y), [(32, a), (32, b)], 1, larger)
    function(lambda m, x: order(x) == 0, [(32, np.array([0xFF7FFFFF, 0x80000000, 0], np.uint32))], 1, [0, 0, 0])
