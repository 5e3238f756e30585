"""Rounding to nearest, in groups whose scales may be smaller than the largest weight asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipopu.numerics import fp16
from skipopu.numerics.formats import F16, I8, Format, dequantise
from skipopu.numerics.fp32 import F32, F64


@dataclass(frozen=True)
class Rounded:
    """A matrix in integers: codes (rows, groups, group), scales (rows, groups), of (rows, n) weights."""

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
        return bytes_of((len(self.codes), self.n), self.codes.shape[-1], self.format)


def bytes_of(shape: tuple[int, ...], group: int, format: Format) -> int:
    """Of codes and scales of (rows, n) weights, and zero points of a nibble."""
    groups = shape[0] * -(-shape[1] // group)
    zeros = (groups + 1) // 2 if format.zero_points else 0
    return groups * group * format.bits // 8 + 2 * groups + zeros


class Grid(NamedTuple):
    """Where codes of weights may be: (rows, n) each, a step, and the least and the largest integer of it."""

    steps: F64
    least: F64
    most: F64


def padded(matrix: F64, n: int) -> F64:
    """Zero columns behind the matrix's own, to ``n``."""
    return np.pad(matrix, ((0, 0), (0, n - matrix.shape[1])))


def grid_of(weight: F64, group: int, format: Format, ratio: float = 1.0) -> tuple[F16, Grid]:
    """(rows, groups) scales of (rows, n) weights, whose groups reach to the format's end if made smaller by ``ratio``; with their grid.

    A format with zero points has its ends where the group's least and largest weight are, 0 among them.
    """
    grouped = weight.reshape(len(weight), -1, group)
    low = np.minimum(grouped.min(-1), 0) if format.zero_points else np.zeros(grouped.shape[:2])
    top = np.maximum(grouped.max(-1), 0) - low if format.zero_points else np.abs(grouped).max(-1)
    scales = np.minimum((top * ratio).astype(np.float32) / np.float32(format.full), fp16.LARGEST).astype(np.float16)
    wide = scales.astype(np.float64)
    least = np.full(wide.shape, -float(format.full))
    if format.zero_points:
        least = -np.clip(np.rint(np.divide(-low * ratio, wide, out=np.zeros_like(wide), where=wide > 0)), 0, format.full)
    most = least + format.full if format.zero_points else -least
    return scales, Grid(*(np.repeat(part, group, axis=1) for part in (wide, least, most)))


def nearest(weight: F64, grid: Grid, format: Format) -> NDArray[np.int8]:
    """Integers of the format; 0 where the step is."""
    ratio = np.divide(weight, grid.steps, out=np.zeros_like(weight), where=grid.steps > 0)
    values = format.values
    if len(values) == int(values[-1]) - int(values[0]) + 1:
        return np.clip(np.rint(ratio), grid.least, grid.most).astype(np.int8)
    return values[np.searchsorted((values[1:] + values[:-1]) / 2, ratio)].astype(np.int8)


def reaches(codes: NDArray[np.int8], format: Format) -> NDArray[np.bool_]:
    """(...) whether groups (..., group) of codes go from end to end, so that rounding their values to nearest gives them again."""
    wide = codes.astype(np.int16)
    top = wide.max(-1, initial=0) - wide.min(-1, initial=0) if format.zero_points else np.abs(wide).max(-1)
    return top == format.full
