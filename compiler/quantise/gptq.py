"""GPTQ (Frantar et al., 2022): what rounding a column adds to a product's results, the columns that follow take away again.

Columns go by falling energy of their inputs; scales are given before (the paper's static groups), so that codes stand in the
checkpoint's order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compiler.quantise.nearest import Grid, nearest
from skipopu.numerics.formats import Format
from skipopu.numerics.fp32 import F64

DAMPING = 0.01  # of the mean energy, added to every column's: the paper's
BLOCK = 128  # columns whose errors reach those behind the block at once


def damped(moments: F64) -> F64:
    """X^T X that can be inverted, whatever was read."""
    return moments + (DAMPING * moments.trace() / len(moments) or 1.0) * np.eye(len(moments))


def factor(moments: F64) -> tuple[NDArray[np.int64], F64]:
    """The order of the columns (n,), and the upper Cholesky factor (n, n) of the inverse of X^T X in that order."""
    order = np.argsort(-moments.diagonal(), kind="stable")
    inverse = np.linalg.inv(damped(moments)[np.ix_(order, order)])
    return order, np.linalg.cholesky(inverse).T.astype(np.float64)


def compensated(weight: F64, grid: Grid, format: Format, factored: tuple[NDArray[np.int64], F64]) -> NDArray[np.int8]:
    """Integers (rows, n) of the format, on the ``grid`` of ``weight`` (rows, n)."""
    order, upper = factored
    left, own = np.ascontiguousarray(weight.T[order]), Grid(*(np.ascontiguousarray(part.T[order]) for part in grid))
    codes = np.empty(left.shape, np.int8)
    for first in range(0, len(left), BLOCK):
        last = min(first + BLOCK, len(left))
        errors = np.empty((last - first, left.shape[1]))
        for k in range(first, last):
            codes[k] = nearest(left[k], Grid(*(part[k] for part in own)), format)
            errors[k - first] = (left[k] - codes[k] * own.steps[k]) / upper[k, k]
            left[k + 1 : last] -= upper[k, k + 1 : last, None] * errors[k - first]
        left[last:] -= upper[first:last, last:].T @ errors
    result = np.empty_like(codes)
    result[order] = codes
    return result.T
