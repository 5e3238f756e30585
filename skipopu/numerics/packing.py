"""Two integer products in one multiplier, exactly.

A 27-bit operand holds two weights of up to 5 bits (INT4, q - z, FP4 as integers), 22 bits apart; the other operand is one
aligned activation of 18 bits. The 45-bit product is kept as an unsigned lower half and a signed upper half, so that both
halves can be summed by plain adders; a lower product below zero has borrowed one from the upper half, which a count of
the lower halves' top bits gives back once per sum::

    sum(lower product) = sum(lower half) - 2^22 * n        n = number of lower halves with their top bit set
    sum(upper product) = sum(upper half) + n

This holds since the lower product fits 22 signed bits: |a| <= 2^17 - 1, |w| <= 16. All 2^28 operand triples are tested.
"""

from __future__ import annotations

from numpy.typing import NDArray

from skipopu.numerics.align import ALIGNED_BITS
from skipopu.numerics.fp32 import I64

WEIGHT_BITS = 5


def spacing(bits: int) -> int:
    """Distance of the two weights for activations of ``bits`` bits: a product of one weight fits as a signed number."""
    return bits + WEIGHT_BITS - 1


SPACING = spacing(ALIGNED_BITS)
WIDE_BITS = SPACING + WEIGHT_BITS  # the multiplier's wide port
_LOWER = (1 << SPACING) - 1


def pack(lower: I64, upper: I64) -> I64:
    """Wide operand of two weights in -16..15 (upper -15..15 when lower is negative, so that 27 bits hold it)."""
    return (upper << SPACING) + lower


def halves(product: I64) -> tuple[I64, I64]:
    """(lower half, unsigned 22 bits; upper half, signed 23 bits) of a wide product."""
    return product & _LOWER, product >> SPACING


def repair(lower: I64, upper: I64, negative: I64) -> tuple[I64, I64]:
    """Sums of lower and upper products from the sums of halves and the number of set top bits."""
    return lower - (negative << SPACING), upper + negative


def negative(lower_half: NDArray) -> NDArray:
    """The top bit of lower halves."""
    return lower_half >> (SPACING - 1)
