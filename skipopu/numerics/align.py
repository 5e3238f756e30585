"""Alignment of FP32 vectors to 18-bit integers with one exponent per group, and what is summed from the mantissas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipopu.numerics import fp32
from skipopu.numerics.fp32 import F32, F64
from skipopu.numerics.tables import reciprocal_sqrt

ALIGNED_BITS = 18
ALIGNED_MAX = (1 << ALIGNED_BITS - 1) - 1
# A number with the group's largest biased exponent g lies below 2^(g-126): 17 magnitude bits weigh 2^(g-143).
ALIGNED_BIAS = 143


def align(x: F32, group: int, bits: int = ALIGNED_BITS) -> tuple[F64, NDArray[np.int64]]:
    """Aligns (..., n) FP32 to groups of ``group`` along the last axis, the last one zero-padded.

    ``bits`` below 18 keeps fewer mantissa bits, in the same units: the lower ones are zero.

    Returns:
        mantissas (..., groups, group), integers in +-(2^17 - 1) held as float64, and the groups' biased exponents
        (..., groups): x ~ m * 2^(g - 143). The largest error is half a unit, 2^(g - 144), or one unit where clipped.
    """
    n = x.shape[-1]
    if n % group:
        x = np.concatenate([x, np.zeros((*x.shape[:-1], -n % group), np.float32)], -1)
    x = x.reshape(*x.shape[:-1], -1, group)
    exponent = np.maximum((fp32.bits(x) >> 23 & 0xFF).max(-1), 1).astype(np.int64)
    dropped = ALIGNED_BITS - bits
    m = np.rint(x * np.ldexp(1.0, ALIGNED_BIAS - dropped - exponent)[..., None])
    largest = (1 << bits - 1) - 1
    return np.clip(m, -largest, largest) * (1 << dropped), exponent


def sum_of_squares(mantissas: F64, exponents: NDArray[np.int64]) -> F32:
    """FP32 sum of squares of aligned (..., groups, group): exact in a group, one rounding each, groups ascending."""
    per_group = fp32.narrow(np.ldexp(np.square(mantissas).sum(-1), 2 * (exponents - ALIGNED_BIAS)))
    total = np.zeros(per_group.shape[:-1], np.float32)
    for g in range(per_group.shape[-1]):
        total = fp32.add(total, per_group[..., g])
    return total


def inverse_rms(mantissas: F64, exponents: NDArray[np.int64], inverse_size: np.float32, epsilon: np.float32) -> F32:
    """1 / sqrt(mean square + epsilon), of the aligned numbers."""
    mean = fp32.multiply(sum_of_squares(mantissas, exponents), inverse_size)
    return reciprocal_sqrt(fp32.add(mean, epsilon))
