"""FP16 (IEEE binary16) as storage: subnormals honoured, overflow saturated to 65504."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipopu.numerics.fp32 import F32, F64, Saturation

LARGEST = np.float32(65504.0)
ALIGNED_BIAS = 31  # an aligned number is m * 2^(exponent field - 31)


def from_fp32(x: F32) -> NDArray[np.float16]:
    """Nearest even; beyond 65504 saturates and sets the sticky bit."""
    with np.errstate(over="ignore"):
        y = x.astype(np.float16)
    if y.size and not np.isfinite(y).all():
        Saturation.note()
        y = np.clip(x, -LARGEST, LARGEST).astype(np.float16)
    return y


def exponent_field(x: NDArray[np.float16]) -> NDArray[np.int64]:
    """Biased exponent, 1 for subnormals and zero: |x| = mantissa * 2^(field - 25) with an 11-bit mantissa."""
    return np.maximum(x.view(np.uint16) >> 10 & 31, 1).astype(np.int64)


def align(x: NDArray[np.float16], exponent: NDArray[np.int64], bits: int = 18) -> F64:
    """Mantissas of x under a shared exponent field: x ~ m * 2^(exponent - 31), 17 bits of magnitude, nearest even.

    ``exponent`` broadcasts against x and is at least every element's field. ``bits`` below 18 keeps fewer bits in the same
    units.
    """
    dropped = 18 - bits
    return np.rint(np.ldexp(x.astype(np.float64), ALIGNED_BIAS - dropped - exponent)) * (1 << dropped)
