"""Piecewise quadratic approximations: one evaluator, one table per function, the same integers in NumPy and RTL.

An argument u of ``segment_bits + offset_bits`` bits selects a segment by its upper bits and interpolates with the lower
ones, x = u mod 2^offset_bits::

    y = c0 + (((c1 + (c2 * x >> offset_bits)) * x) >> offset_bits)        (arithmetic shifts, y in units of 2^-30)

Coefficients interpolate the function at each segment's three Chebyshev nodes. ``error_bound`` is the largest absolute
error of y * 2^-30 over every argument; a test measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipopu.numerics import fp32
from skipopu.numerics.fp32 import F32, I64

OUTPUT_BITS = 30


@dataclass(frozen=True)
class QuadraticTable:
    """A function on [0, 1) of u / 2^(segment_bits + offset_bits), tabulated as above."""

    name: str
    function: Callable[[float], float]
    segment_bits: int
    offset_bits: int
    error_bound: float
    coefficients: NDArray[np.int64] = field(init=False, repr=False, compare=False)  # (segments, 3): c0, c1, c2

    def __post_init__(self) -> None:
        segments = 1 << self.segment_bits
        nodes = [0.5 + 0.5 * math.cos((2 * k + 1) * math.pi / 6) for k in range(3)]
        rows: list[list[int]] = []
        for s in range(segments):
            a, b, c = (self.function((s + x) / segments) for x in nodes)
            ab = (b - a) / (nodes[1] - nodes[0])
            bc = (c - b) / (nodes[2] - nodes[1])
            c2 = (bc - ab) / (nodes[2] - nodes[0])
            c1 = ab - c2 * (nodes[0] + nodes[1])
            c0 = a - nodes[0] * (c1 + c2 * nodes[0])
            rows.append([round(v * (1 << OUTPUT_BITS)) for v in (c0, c1, c2)])
        object.__setattr__(self, "coefficients", np.array(rows, np.int64))

    @property
    def argument_bits(self) -> int:
        return self.segment_bits + self.offset_bits

    def evaluate(self, u: I64) -> I64:
        """y for arguments 0 <= u < 2^argument_bits."""
        segment, x = u >> self.offset_bits, u & (1 << self.offset_bits) - 1
        c0, c1, c2 = self.coefficients.T.copy()
        y = c2.take(segment)
        for lower in (c1, c0):
            y *= x
            y >>= self.offset_bits
            y += lower.take(segment)
        return y


# 2^-f for a 24-bit fraction f.
EXP2 = QuadraticTable("exp2", lambda f: 2.0**-f, 6, 18, 2.0**-26)
# 1/m for m = 1.f, f of 23 bits.
RECIPROCAL = QuadraticTable("reciprocal", lambda f: 1 / (1 + f), 6, 17, 2.0**-22)
# 1/sqrt(m): the first half of the arguments is m in [1, 2), the second half m in [2, 4).
RSQRT = QuadraticTable("rsqrt", lambda f: 1 / math.sqrt(1 + 2 * f if f < 0.5 else 4 * f), 7, 17, 2.0**-23)
# The logistic function of |x| in [0, 16).
SIGMOID = QuadraticTable("sigmoid", lambda f: 1 / (1 + math.exp(-16 * f)), 8, 16, 2.0**-21)
# The normal distribution's function of |x| in [0, 16).
NORMAL = QuadraticTable("normal", lambda f: 0.5 * (1 + math.erf(16 * f / math.sqrt(2))), 8, 16, 2.0**-20)
# What the tanh approximation of GELU multiplies x by, of |x| in [0, 16).
GELU_TANH = QuadraticTable(
    "gelu_tanh",
    lambda f: 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (16 * f + 0.044715 * (16 * f) ** 3))),
    8,
    16,
    2.0**-20,
)

TABLES = (EXP2, RECIPROCAL, RSQRT, SIGMOID, NORMAL, GELU_TANH)

FRACTION_BITS = 24  # of probabilities and of exp2's argument


def _split(x: ArrayLike) -> tuple[I64, I64]:
    """(biased exponent, 23-bit fraction) of FP32 numbers."""
    b = fp32.bits(x).astype(np.int64)
    return b >> 23 & 0xFF, b & 0x7FFFFF


def exp2_negative(d: F32) -> I64:
    """2^-d for d >= 0 in units of 2^-24, half up; 0 for d >= 64. Absolute error below 1.3 * 2^-24 (argument truncated, table, rounding)."""
    exponent, fraction = _split(d)
    mantissa = np.where(exponent > 0, fraction | 1 << 23, 0)
    # d in units of 2^-24 is mantissa * 2^(exponent - 126), rounded down.
    shift = np.clip(exponent - 126, -63, 6)
    fixed = np.where(shift >= 0, mantissa << np.maximum(shift, 0), mantissa >> np.maximum(-shift, 0))
    whole, part = fixed >> FRACTION_BITS, fixed & (1 << FRACTION_BITS) - 1
    drop = OUTPUT_BITS - FRACTION_BITS + whole
    p = shift_half_up(EXP2.evaluate(part), np.minimum(drop, 62))
    return np.where(exponent > 132, 0, p)


def shift_half_up(x: I64, shift: ArrayLike) -> I64:
    """x / 2^shift rounded half up, for x >= 0; a shift of 0 keeps x."""
    s = np.asarray(shift, np.int64)
    return (x + (np.int64(1) << s >> 1)) >> s


def reciprocal(x: F32) -> F32:
    """1/x for x > 0; relative error below 2^-21.9 (table and final rounding)."""
    exponent, fraction = _split(x)
    return fp32.from_integer(RECIPROCAL.evaluate(fraction), fp32.BIAS - exponent - OUTPUT_BITS)


def reciprocal_sqrt(x: F32) -> F32:
    """1/sqrt(x) for x > 0; relative error below 2^-21.9."""
    exponent, fraction = _split(x)
    odd = (exponent - fp32.BIAS) & 1
    half = (exponent - fp32.BIAS - odd) >> 1
    return fp32.from_integer(RSQRT.evaluate(odd << 23 | fraction), -half - OUTPUT_BITS)


SYMMETRIC_FRACTION_BITS = 20  # of the arguments of SIGMOID, NORMAL and GELU_TANH


def symmetric(table: QuadraticTable, x: F32) -> F32:
    """f(x) for a function with f(-x) = 1 - f(x), tabulated over |x| in [0, 16); absolute error of the table + 2^-22.

    The argument is truncated to 2^-20; no function's slope is more than 0.4.
    """
    exponent, fraction = _split(x)
    mantissa = np.where(exponent > 0, fraction | 1 << 23, 0)
    # |x| in units of 2^-20 is mantissa * 2^(exponent - 130); 16 and above saturate at the last argument.
    shift = np.clip(exponent - 130, -63, 0)
    u = np.where(exponent > 130, (1 << table.argument_bits) - 1, mantissa >> -shift)
    y = table.evaluate(u)
    return fp32.from_integer(np.where(np.signbit(x), (1 << OUTPUT_BITS) - y, y), -OUTPUT_BITS)


def sigmoid(x: F32) -> F32:
    """1 / (1 + exp(-x)); absolute error below 2^-20.9."""
    return symmetric(SIGMOID, x)
