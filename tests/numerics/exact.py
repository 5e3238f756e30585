"""FP32's rules written down once more, in integers alone: no float of the computer's rounds anything here.

A result is an integer times a power of two, exactly, before its one rounding, which divides and compares the remainder with half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Flags = NDArray[np.bool_]

SIGN = 1 << 31
LARGEST = 0x7F7FFFFF
POWERS = np.uint64(1) << np.arange(64, dtype=np.uint64)
PLACES = 38  # below a term's last bit in which sums are kept: with its 24 bits and a carry they fill an int64


@dataclass(frozen=True)
class Exact:
    """Rounded results, and what happened to each.

    Attributes:
        bits: FP32 patterns.
        saturated: it was beyond the largest number.
        tiny: not zero, below 2^-126 before rounding, and flushed.
        tie: half way between two numbers.
        carried: rounding reached the next power of two.
    """

    bits: U32
    saturated: Flags
    tiny: Flags
    tie: Flags
    carried: Flags


def rounded(negative: Flags, magnitude: U64, exponent: I64) -> Exact:
    """magnitude * 2^exponent, nearest even to 24 bits; zeros and what is flushed keep the sign."""
    length = np.searchsorted(POWERS, magnitude, side="right")  # bits of the magnitude
    drop = np.maximum(length - 24, 0).astype(np.uint64)
    kept = magnitude >> drop
    unit, twice = np.uint64(1) << drop, (magnitude - (kept << drop)) << np.uint64(1)
    tie = (drop > 0) & (twice == unit)
    mantissa = (kept + ((twice > unit) | (tie & (kept % 2 == 1)))) << np.maximum(24 - length, 0).astype(np.uint64)
    carried = mantissa == 1 << 24
    top = length - 1 + exponent  # of the leading bit, before rounding
    field = top + 127 + carried
    tiny = (magnitude > 0) & (top < -126)
    counts = (magnitude > 0) & ~tiny
    saturated = counts & (field > 254)
    inside = counts & ~saturated
    fraction = np.where(carried, 0, mantissa.astype(np.int64) - (1 << 23))
    number = np.where(inside, np.where(inside, field, 0) << 23 | fraction, np.where(saturated, LARGEST, 0))
    return Exact((number | np.where(negative, SIGN, 0)).astype(np.uint32), saturated, tiny, tie & inside, carried & inside)


def parts(x: U32) -> tuple[Flags, I64, I64]:
    """(negative, 24-bit mantissa, exponent field) of FP32 patterns; |x| = mantissa * 2^(field - 150), subnormal ones are zeros."""
    field = (x >> 23 & 255).astype(np.int64)
    return x >= SIGN, np.where(field == 0, 0, (x & 0x7FFFFF).astype(np.int64) | 1 << 23), field


def product(a: U32, b: U32) -> Exact:
    """a * b."""
    (na, ma, ea), (nb, mb, eb) = parts(a), parts(b)
    return rounded(na ^ nb, (ma * mb).astype(np.uint64), ea + eb - 300)


def total(a: U32, b: U32) -> Exact:
    """a + b.

    A term more than PLACES binary places below the other one counts as one unit of the last place kept. It is less than 2^-14 of the
    other's last bit, as that unit is, and numbers and the middles between them are multiples of a quarter of that bit, next to a power
    of two too: both lie between the same two of these, so that the sum rounds to the same number.
    """
    swap = (b >> 23 & 255) > (a >> 23 & 255)
    (na, ma, ea), (nb, mb, eb) = parts(np.where(swap, b, a)), parts(np.where(swap, a, b))
    distance = ea - eb
    small = np.where(distance > PLACES, (mb > 0).astype(np.int64), mb << np.clip(PLACES - distance, 0, PLACES))
    large = ma << PLACES
    both = np.where(na, -large, large) + np.where(nb, -small, small)
    negative = np.where(both == 0, na & nb, both < 0)
    return rounded(negative, np.abs(both).astype(np.uint64), ea - 150 - PLACES)


def number(mantissa: I64, exponent: I64) -> Exact:
    """mantissa * 2^exponent."""
    negative = mantissa < 0
    plain = mantissa.astype(np.uint64)
    return rounded(negative, np.where(negative, ~plain + np.uint64(1), plain), exponent)


# Magnitudes of all finite FP16 patterns in ascending order, exact in float64; the last one is the limit of what rounds to a number.
HALVES = np.array([(p % 1024 + 1024 * (p >= 1024)) * 2.0 ** (max(p // 1024, 1) - 25) for p in range(0x7C01)])


def half(x: U32) -> tuple[NDArray[np.uint16], Flags]:
    """(FP16 patterns next to FP32 patterns, ties to the even one, subnormals honoured, at most 65504; saturated)."""
    negative, mantissa, field = parts(x)
    # A float64 holds every FP32 number and every middle of two FP16 numbers.
    magnitude = np.ldexp(mantissa.astype(np.float64), field - 150)
    middles = (HALVES[1:] + HALVES[:-1]) / 2
    below = np.searchsorted(middles, magnitude)
    tie = magnitude == middles[np.minimum(below, len(middles) - 1)]
    pattern = below + (tie & (below % 2 == 1))
    saturated = pattern > 0x7BFF
    return (np.minimum(pattern, 0x7BFF) | np.where(negative, 1 << 15, 0)).astype(np.uint16), saturated


def from_half(h: NDArray[np.uint16]) -> U32:
    """FP32 patterns of finite FP16 patterns: an integer below 2^11 times a power of two, which needs no rounding."""
    field = (h >> 10 & 31).astype(np.int64)
    mantissa = (h & 1023).astype(np.int64) + np.where(field > 0, 1024, 0)
    return rounded(h >= 1 << 15, mantissa.astype(np.uint64), np.maximum(field, 1) - 25).bits


def differing(seen: NDArray[Any], expected: NDArray[Any], *operands: NDArray[Any]) -> None:
    """Fails with the first of the differing results."""
    wrong = np.flatnonzero(seen != expected)
    if wrong.size:
        k = wrong[0]
        given = ", ".join(f"{int(operand[k]):#x}" for operand in operands)
        raise AssertionError(f"{wrong.size} of {seen.size} differ; of {given}: {seen[k]:#x}, expected {expected[k]:#x}")
