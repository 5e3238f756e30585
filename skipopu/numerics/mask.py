"""Which input channels of a product are active: integers are compared, so that every engine says the same.

The key of a number is the upper half of its FP32 pattern without the sign: sign aside, an approximate logarithm, 128 steps to a power of
two. Sums of two keys compare like products.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipopu.numerics import fp32
from skipopu.numerics.fp32 import I64

KEY_BITS = 15  # of a finite number: sums of two are below NEVER
THRESHOLD_BITS = 16
NEVER = (1 << THRESHOLD_BITS) - 1  # the threshold that no channel reaches; 0 is reached by all


def key(x: ArrayLike) -> I64:
    """Keys, int64, of FP32 numbers of any shape."""
    return (fp32.bits(x) >> 16 & (1 << KEY_BITS) - 1).astype(np.int64)


ONE = int(key(1.0))  # what is added where nothing scales the product


def active(keys: I64, scale: I64 | int, thresholds: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Whether channels are active, bool of the shape that keys of elements, keys of the scales in front of them, and thresholds share."""
    return keys + scale >= thresholds
