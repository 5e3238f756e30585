"""Rounding to nearest, in groups whose scales may be smaller than the largest weight asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipopu.numerics.formats import F16, I8, Format, dequantise
from skipopu.numerics.fp32 import F32, F64


@dataclass(frozen=True)
class Rounded:
    """A matrix in integers: codes (rows, groups, group) from -full to full, scales (rows, groups), of (rows, n) weights."""

    codes: I8
    scales: F16
    n: int
    format: Format

    @property
    def values(self) -> F32:
        """(rows, n); exact."""
        return dequantise(self.codes, self.scales, self.n)

    @property
    def bytes(self) -> int:
        """Of codes and scales."""
        return self.codes.size * self.format.bits // 8 + 2 * self.scales.size


def padded(matrix: F64, n: int) -> F64:
    """Zero columns behind the matrix's own, to ``n``."""
    return np.pad(matrix, ((0, 0), (0, n - matrix.shape[1])))


def scales_of(weight: F64, group: int, format: Format, ratio: float = 1.0) -> F16:
    """(rows, groups) scales of (rows, n) weights whose largest magnitudes, times ``ratio``, become the format's."""
    grouped = weight.reshape(len(weight), -1, group)
    top = (np.abs(grouped).max(-1) * ratio).astype(np.float32)
    return np.minimum(top / np.float32(format.full), np.float32(np.finfo(np.float16).max)).astype(np.float16)


def per_weight(scales: F16, group: int) -> F64:
    """(rows, groups) to one scale a weight."""
    return np.repeat(scales.astype(np.float64), group, axis=1)


def nearest(weight: F64, steps: F64, format: Format) -> NDArray[np.int8]:
    """Integers of the format, for weights and one scale each; 0 where the scale is, and never beyond ``format.full``."""
    ratio = np.divide(weight, steps, out=np.zeros_like(weight), where=steps > 0)
    values = format.values[np.abs(format.values) <= format.full]
    if len(values) == 2 * format.full + 1:
        return np.clip(np.rint(ratio), -format.full, format.full).astype(np.int8)
    return values[np.searchsorted((values[1:] + values[:-1]) / 2, ratio)].astype(np.int8)
