"""Finite numbers that meet the corners of FP32 and FP16 far more often than random ones do: each is of one of several kinds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tests.numerics.exact import I64, U32

COUNT = 1_000_000  # of an operation's operands
DISTANCES = (0, 1, 2, 3, 22, 23, 24, 25, 26, 27, 28)  # of two exponents
EDGES = (0, 1, 2, 3, 125, 126, 127, 128, 129, 252, 253, 254)  # of the exponent field
FRACTIONS = (0, 1, 2, 3, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFD, 0x7FFFFE, 0x7FFFFF)


def mixed(rng: np.random.Generator, *kinds: NDArray[np.integer]) -> I64:
    """Elements of ``kinds``, each of one of them."""
    return np.choose(rng.integers(0, len(kinds), len(kinds[0])), [kind.astype(np.int64) for kind in kinds])


def near(rng: np.random.Generator, count: int, values: Sequence[int], by: int = 1) -> I64:
    """``values``, and what is next to them."""
    return rng.choice(np.array(values), count) + rng.integers(-by, by + 1, count)


def fractions(rng: np.random.Generator, count: int) -> I64:
    """23 bits: any, corners, one bit, a run of ones from the top or the bottom."""
    one = 1 << rng.integers(0, 23, count)
    return mixed(
        rng, rng.integers(0, 1 << 23, count), rng.choice(np.array(FRACTIONS), count), one, one - 1, 0x7FFFFF ^ (one - 1)
    )


def finite(sign: I64, field: I64, fraction: I64) -> U32:
    """Patterns; fields outside 0 to 254 become one of these."""
    return (sign << 31 | np.clip(field, 0, 254) << 23 | fraction).astype(np.uint32)


def numbers(rng: np.random.Generator, count: int) -> U32:
    """Subnormal numbers and zeros of both signs among them."""
    field = mixed(rng, rng.integers(0, 255, count), rng.integers(117, 138, count), rng.choice(np.array(EDGES), count))
    return finite(rng.integers(0, 2, count), field, fractions(rng, count))


def moved(rng: np.random.Generator, x: U32, by: I64) -> U32:
    """Patterns some numbers further, of any sign."""
    magnitude = np.clip((x & 0x7FFFFFFF).astype(np.int64) + by, 0, 0x7F7FFFFF)
    return (magnitude | rng.integers(0, 2, len(x)) << 31).astype(np.uint32)


def terms(seed: int, count: int) -> tuple[U32, U32]:
    """Pairs to add: any, at chosen distances, ties and next to them, near cancellation, all in either order."""
    rng = np.random.default_rng(seed)
    a = numbers(rng, count)
    field = (a >> 23).astype(np.int64) & 255
    distance = mixed(rng, rng.choice(np.array(DISTANCES), count), rng.integers(0, 48, count))
    sign = rng.integers(0, 2, count)
    apart = finite(sign, field - distance, fractions(rng, count))
    # A term d places below the other one ties where its lowest d bits are one and zeros; at 24 and 25 its leading bit is that one.
    low = np.clip(distance, 1, 24)
    tie = (fractions(rng, count) | 1 << 23) >> low << low | 1 << low - 1
    tied = moved(rng, finite(sign, field - distance, tie & 0x7FFFFF), mixed(rng, 0 * low, rng.integers(-1, 2, count)))
    step = mixed(rng, rng.integers(-3, 4, count), 1 << rng.integers(0, 24, count), rng.integers(-1, 2, count) << 23)
    b = mixed(rng, numbers(rng, count), apart, tied, moved(rng, a, step)).astype(np.uint32)
    swap = rng.integers(0, 2, count) == 1
    return np.where(swap, b, a), np.where(swap, a, b)


def factors(seed: int, count: int) -> tuple[U32, U32]:
    """Pairs to multiply: any, ties, products next to a power of two; exponents that sum to where products are flushed or saturate."""
    rng = np.random.default_rng(seed)
    a, b = numbers(rng, count), numbers(rng, count)
    # With 22 or 23 zeros at their ends together, a product of 47 or 48 bits is one of 24 bits, a one, and zeros.
    zeros = rng.integers(0, 23, count)
    others = 22 - zeros + rng.integers(0, 2, count)
    tied = [(fractions(rng, count) >> shift | 1) << shift for shift in (zeros, others)]
    # The number whose product with a is next to 2^47.
    beside = ((1 << 47) // ((a & 0x7FFFFF).astype(np.int64) | 1 << 23)) + rng.integers(-1, 3, count)
    kind = rng.integers(0, 3, count)
    fraction_a = np.choose(kind, [a.astype(np.int64), tied[0], a.astype(np.int64)]) & 0x7FFFFF
    fraction_b = np.choose(kind, [b.astype(np.int64), tied[1], beside]) & 0x7FFFFF
    field = (a >> 23).astype(np.int64) & 255
    partner = mixed(rng, (b >> 23).astype(np.int64) & 255, near(rng, count, (127, 381)) - field)
    sign = rng.integers(0, 4, count)
    return finite(sign & 1, field, fraction_a), finite(sign >> 1, partner, fraction_b)


def integers(seed: int, count: int, width: int) -> tuple[I64, I64]:
    """(signed integers of ``width`` bits, powers of two): of all lengths, ties and next to them, all ones, both ends of the range."""
    rng = np.random.default_rng(seed)
    length = rng.integers(1, width, count)
    longest = rng.integers(0, 1 << width - 1, count) | 1 << width - 2
    kept = (fractions(rng, count) | 1 << 23) << 39 >> 64 - width
    half = np.where(length > 24, 1 << np.maximum(length - 25, 0), 0)
    tie, power = kept >> width - 1 - length | half, 1 << length - 1
    after = np.minimum(tie + 1, (1 << width - 1) - 1)
    magnitude = mixed(rng, longest >> width - 1 - length, tie, after, tie - 1, power, power - 1 + power)
    mantissa = np.where(rng.integers(0, 2, count) == 1, -magnitude - rng.integers(0, 2, count), magnitude)
    exponent = mixed(rng, rng.integers(-250, 130, count), near(rng, count, (-126, 127, 128)) - length + 1)
    return mantissa, exponent


def for_halves(seed: int, count: int) -> U32:
    """FP32 patterns around all of FP16: its numbers, the middles of two of them and what is next to these; beyond both ends."""
    rng = np.random.default_rng(seed)
    field = mixed(rng, rng.integers(100, 146, count), near(rng, count, (102, 103, 113, 142)))
    sign, fraction = rng.integers(0, 2, count), fractions(rng, count)
    low = np.clip(126 - field, 13, 24)  # bits that rounding drops
    kept = fraction >> low << low
    tie = kept | (1 << low - 1) & 0x7FFFFF
    placed = finite(sign, field, mixed(rng, fraction, kept, tie))
    return mixed(rng, placed, moved(rng, placed, rng.integers(-1, 2, count)), numbers(rng, count)).astype(np.uint32)
