"""Units that multiply FP16 mantissas, as exact models: what other designs do instead of aligning operands.

*Overpacked*: two 11-bit mantissas, 15 bits apart, in a multiplier's 27-bit port meet a third one; the two 22-bit products
overlap by 7 bits, which 7 bits of the upper product, computed again beside the multiplier, separate exactly. Each product
is then shifted to its group's largest exponent in a field of 24 bits (below it is cut off), summed as an integer, and the
sum is rounded once.

*Truncated*: the packed mantissas lose their two lowest bits first, so that only 3 bits overlap 17 apart. SkipOPU's text
names truncation, a pre-adder and the C port, but not the widths; this reading was chosen because its error comes out near
the published 0.116 %.

*Multiply-add*: a chain of FP16 multipliers and adders, each rounding to FP16, subnormals flushed.
"""

from __future__ import annotations

import numpy as np

from skipopu.numerics import fp16, fp32
from skipopu.numerics.fp32 import F32, F64, I64

MANTISSA_BITS = 11
OVERPACKED_SPACING = 15
TRUNCATED_SPACING = 17
TRUNCATED_BITS = 2  # cut from the packed mantissas
FIELD_BITS = 24  # of a shifted product's magnitude
PRODUCT_BITS = 2 * MANTISSA_BITS
INTEGER_BITS = 15  # magnitude of a mantissa times a weight of up to 4 bits and sign


def pack(first: I64, second: I64, spacing: int) -> I64:
    """Wide operand of two mantissas, ``first`` below."""
    return first + (second << spacing)


def unpack(product: I64, second_low: I64, spacing: int, bits: int) -> tuple[I64, I64]:
    """The two products of ``bits`` bits from a wide one.

    ``second_low``: the upper product modulo 2^(bits - spacing), from the operands' low bits; what it leaves of the overlap
    is the lower product's.
    """
    overlap = bits - spacing
    mask = (1 << overlap) - 1
    middle = ((product >> spacing) - second_low) & mask  # the lower product's top bits
    first = (product & ((1 << spacing) - 1)) | (middle << spacing)
    return first, (product - first) >> spacing


def _mantissa(x: F32) -> I64:
    """Magnitude of the 11-bit mantissa of FP16 numbers held as FP32: |x| = mantissa * 2^(field - 25)."""
    half = x.astype(np.float16)
    bits = half.view(np.uint16).astype(np.int64)
    return (bits & 0x3FF) | ((bits >> 10 & 31) != 0).astype(np.int64) << 10


def _field_sum(product: I64, negative: np.ndarray, exponent: I64, bits: int, bias: int) -> F32:
    """Products of ``bits`` bits shifted right to the largest exponent in FIELD_BITS, cut off, summed, rounded once."""
    largest = exponent.max(-1)
    shifted = (product << (FIELD_BITS - bits)) >> np.minimum(largest[..., None] - exponent, 63)
    total = np.where(negative, -shifted, shifted).sum(-1)
    return fp32.from_integer(total, largest - bias - (FIELD_BITS - bits))


def _products(a: F32, b: F32, integers: bool, cut: int) -> F32:
    a, b = np.broadcast_arrays(a, b)
    negative = (np.signbit(a)) ^ (np.signbit(b))
    field = fp16.exponent_field(a.astype(np.float16))
    if integers:
        return _field_sum(_mantissa(a) * np.abs(b).astype(np.int64), negative, field, INTEGER_BITS, 25)
    packed = _mantissa(b) >> cut << cut
    return _field_sum(_mantissa(a) * packed, negative, field + fp16.exponent_field(b.astype(np.float16)), PRODUCT_BITS, 50)


def overpacked(a: F32, b: F32, integers: bool) -> F32:
    """Sum along the last axis of FP16 a times FP16 b, or times integers of up to 4 bits and sign."""
    return _products(a, b, integers, 0)


def truncated(a: F32, b: F32, integers: bool) -> F32:
    """Like :func:`overpacked`, the packed operand b cut to 9 bits. Integer weights do not overlap and lose nothing."""
    return _products(a, b, integers, TRUNCATED_BITS)


def _round(x: F64) -> F64:
    """Nearest even FP16, below 2^-14 flushed (decided before rounding), saturated to 65504."""
    with np.errstate(over="ignore"):
        y = np.clip(x.astype(np.float16).astype(np.float64), -65504, 65504)
    return y * (np.abs(x) >= 2.0**-14)


def multiply_add(a: F32, b: F32, integers: bool) -> F32:
    """acc = round(acc + round(a * b)) along the last axis, from zero; subnormal operands count as zero."""
    del integers
    x, y = (v.astype(np.float64) * (np.abs(v) >= 2.0**-14) for v in (a, b))
    total = np.zeros(np.broadcast_shapes(a.shape, b.shape)[:-1])
    for k in range(a.shape[-1]):
        total = _round(total + _round(x[..., k] * y[..., k]))
    return total.astype(np.float32)
