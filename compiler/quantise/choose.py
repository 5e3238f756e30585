"""The codes of one matrix: each row keeps what changes its results least, of several roundings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from compiler.quantise.gptq import compensated, factor
from compiler.quantise.nearest import Rounded, grid_of, nearest, padded, reaches
from skipopu.numerics.formats import Format
from skipopu.numerics.fp32 import F32, F64

METHODS = ("rtn", "gptq", "awq", "gptq+awq")
RATIOS = (0.95, 0.9, 0.85, 0.8, 0.75)  # of a group's largest magnitude, beyond which weights are clipped


class Choice(NamedTuple):
    """A matrix's codes, and the error of its results relative to their size, root mean square: to nearest, and as chosen."""

    rounded: Rounded
    nearest: float
    chosen: float


def objective(error: F64, moments: F64) -> NDArray[np.float64]:
    """(rows,) sums of squares that an error (rows, n) of the weights makes of a product's results, X^T X given."""
    return ((error @ moments) * error).sum(1)


def choose(weight: F32, moments: F64, group: int, format: Format, method: str) -> Choice:
    """Codes of (rows, n) weights whose inputs have the ``moments`` X^T X (n, n).

    To nearest, each group's scale is of its largest magnitude. Otherwise every row has the candidates to nearest and those of
    smaller scales, with GPTQ's compensation or without. Every group of one of smaller scales has a code of the largest magnitude (with
    zero points both ends): its values alone, rounded to nearest, give codes and scales back.
    """
    rows, n = weight.shape
    wide = -(-n // group) * group
    original = padded(weight.astype(np.float64), wide)
    energy = np.pad(moments, (0, wide - n))
    scales, grid = grid_of(original, group, format)
    codes = nearest(original, grid, format)
    size = max(objective(original, energy).sum(), np.finfo(np.float64).tiny)
    best = objective(codes * grid.steps - original, energy)
    before = best.sum()
    factored = factor(energy) if "gptq" in method else None
    for ratio in () if method == "rtn" else (1.0, *RATIOS):
        tried, grid = grid_of(original, group, format, ratio)
        found = nearest(original, grid, format) if factored is None else compensated(original, grid, format, factored)
        error = objective(found * grid.steps - original, energy)
        better = (error < best) & (reaches(found.reshape(rows, -1, group), format) | (tried == 0)).all(1)
        codes[better], scales[better], best[better] = found[better], tried[better], error[better]
    rounded = Rounded(codes.reshape(rows, -1, group), scales, n, format)
    return Choice(rounded, float(np.sqrt(before / size)), float(np.sqrt(best.sum() / size)))
