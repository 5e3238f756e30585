"""Symmetric INT4 weights with one FP16 scale per group along the input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipopu.numerics.fp32 import F32


def round_groups(weight: F32, group: int, full: int, low: int, high: int) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Rounds (rows, n) to codes in low..high and scales s = FP16(max|w| / full) per zero-padded group; s = 0 gives q = 0."""
    rows, n = weight.shape
    padded = np.zeros((rows, n + -n % group), np.float32)
    padded[:, :n] = weight
    grouped = padded.reshape(rows, -1, group)
    with np.errstate(over="ignore"):
        scale = np.minimum(np.abs(grouped).max(-1) / np.float32(full), 65504).astype(np.float16)
    wide = scale.astype(np.float32)[..., None]
    q = np.clip(np.rint(np.divide(grouped, wide, out=np.zeros_like(grouped), where=wide > 0)), low, high)
    return q.astype(np.int8), scale


def quantise(weight: F32, group: int) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Rounds (rows, n) to q (rows, groups, group) in -8..7 and scales (rows, groups), to nearest; s = FP16(max|w| / 7)."""
    return round_groups(weight, group, 7, -8, 7)


def dequantise(q: NDArray[np.int8], scale: NDArray[np.float16], n: int) -> F32:
    """(rows, n) FP32, exact."""
    return (q.astype(np.float32) * scale.astype(np.float32)[..., None]).reshape(len(q), -1)[:, :n]


def quantise_split(weight: F32, group: int) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Rounds (rows, n) to about 8 bits as two INT4 rows each, (2 * rows, groups, group): w ~ s * (16 * high + low).

    Rows alternate high, low; the high row's scale is 16 s. s = FP16(max|w| / 119), so that 16 * 7 + 7 is the largest value.
    """
    total, scale = round_groups(weight, group, 119, -119, 119)
    high = (total.astype(np.int16) + 8) >> 4
    low = total - 16 * high
    q = np.stack([high, low], 1).reshape(2 * len(weight), *total.shape[1:]).astype(np.int8)
    scales = np.stack([scale * np.float16(16), scale], 1).reshape(2 * len(weight), -1)
    return q, scales
