"""Symmetric INT8 weights with one FP16 scale per group along the input; the array multiplies their two digits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipopu.numerics.fp32 import F32
from skipopu.numerics.int4 import round_groups


def quantise(weight: F32, group: int) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Rounds (rows, n) to q (rows, groups, group) in -128..127 and scales (rows, groups), to nearest; s = FP16(max|w| / 127)."""
    return round_groups(weight, group, 127, -128, 127)


def digits(q: NDArray[np.int8]) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """(lower 0..15, upper -8..7) with q = 16 * upper + lower: the two operands of one packed multiplier."""
    return q & np.int8(15), q >> np.int8(4)
