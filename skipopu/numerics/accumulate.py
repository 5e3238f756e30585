"""Two sums of products in one accumulator, exactly.

A multiplier that adds up its own results has one register of 48 bits for the products of two weights with an activation x. The weights
are SPACING bits apart; over a group it holds, modulo 2^48, ::

    P = 2^20 U + L        U = sum(u * x), L = sum(l * x)

Both sums are below 2^27 in magnitude: of at most TERMS = 2^7 terms with |x| < 2^17 and weights from -8 to 7. That makes 56 bits of two
sums in 48. The eight that are missing are U modulo 2^8, added up beside the multiplier: it needs the lower eight bits of x alone. Then

    L modulo 2^20 is P modulo 2^20,
    floor(L / 2^20) = floor(P / 2^20) - U, of which eight bits say all, since -2^27 <= L < 2^27,
    U = floor(P / 2^20) - floor(L / 2^20), in the 28 bits of P that are left, since -2^27 <= U < 2^27.

Weights of 5 bits, up to 12 in magnitude, have the same bound in half as many terms.

Fewer bits beside it cannot do: two sums of 28 bits are 2^56 cases. Nibbles from 0 to 15 are less 8 in the multiplier, and 8 * sum(x)
is added to their sums, which is the same number for all rows of a group.
"""

from __future__ import annotations

from skipopu.numerics.formats import SIGNED, UNSIGNED, Format
from skipopu.numerics.fp32 import I64

WIDTH = 48  # of a multiplier's register
SPACING = 20  # of two weights
SIDE_BITS = 8  # of the second sum, beside it
SUM_BITS = SPACING + SIDE_BITS  # of a sum
TERMS = 128


def terms(format: Format) -> int:
    """Products of ``format`` whose sums the register holds: all of them stay below 2^27 with weights up to 8, with larger ones half as many."""
    return TERMS if format.digits[0] in (SIGNED, UNSIGNED) else TERMS // 2


def accumulated(x: I64, lower: I64, upper: I64) -> tuple[I64, I64]:
    """What stands in the register (unsigned, WIDTH bits) and beside it (SIDE_BITS) after a group, last axis.

    ``x`` aligned numbers, ``lower`` and ``upper`` weights from -8 to 7.
    """
    packed = (upper << SPACING) + lower
    side = (upper * (x & (1 << SIDE_BITS) - 1)).sum(-1)
    return (packed * x).sum(-1) & (1 << WIDTH) - 1, side & (1 << SIDE_BITS) - 1


def apart(total: I64, side: I64) -> tuple[I64, I64]:
    """(sum of lower products, of upper products) from what :func:`accumulated` gives."""
    high = total >> SPACING
    over = _signed(high - side, SIDE_BITS)
    return (over << SPACING) + (total & (1 << SPACING) - 1), _signed(high - over, SUM_BITS)


def _signed(value: I64, bits: int) -> I64:
    """The signed number that the lower ``bits`` are."""
    half = 1 << bits - 1
    return ((value + half) & (1 << bits) - 1) - half
