"""GPTQ against its definition; rows never lose by what is chosen for them; what is written is what the compiler rounds to."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from compiler.quantise import gptq
from compiler.quantise.choose import METHODS, choose, objective
from compiler.quantise.gptq import compensated, damped, factor
from compiler.quantise.nearest import Grid, grid_of, nearest, reaches
from skipopu.numerics.formats import FORMATS, INT4, INT4Z, Format
from skipopu.numerics.fp32 import F32, F64


def drawn(rows: int, n: int, seed: int = 0) -> tuple[F32, F64]:
    """Weights (rows, n), and moments of inputs that depend on one another."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((3 * n, n)) @ rng.standard_normal((n, n))
    return rng.standard_normal((rows, n)).astype(np.float32), inputs.T @ inputs


def by_definition(weight: F64, grid: Grid, moments: F64) -> np.ndarray:
    """One row and one column at a time, the inverse of what is left taken anew: Optimal Brain Quantisation in a fixed order."""
    order, hessian = np.argsort(-moments.diagonal(), kind="stable"), damped(moments)
    codes = np.zeros(weight.shape, np.int8)
    for row, left in enumerate(weight.copy()):
        for place, column in enumerate(order):
            rest = order[place:]
            inverse = np.linalg.inv(hessian[np.ix_(rest, rest)])
            step, least, most = (part[row, column] for part in grid)
            codes[row, column] = np.clip(np.rint(left[column] / step), least, most)
            error = left[column] - codes[row, column] * step
            left[rest] -= error / inverse[0, 0] * inverse[0]
    return codes


@pytest.mark.parametrize("block", [1, 5, 64])
@pytest.mark.parametrize("form", [INT4, INT4Z], ids=lambda form: form.name)
def test_columns_take_away_the_errors_of_those_before(form: Format, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "BLOCK", block)
    weight, moments = drawn(6, 24)
    _, grid = grid_of(weight.astype(np.float64), 8, form, 0.9)
    found = compensated(weight.astype(np.float64), grid, form, factor(moments))
    assert np.array_equal(found, by_definition(weight.astype(np.float64), grid, moments))
    assert form.holds(found, 8).all()


def test_the_best_codes_of_all_are_not_far() -> None:
    """Of all codes of four weights: GPTQ's stand between rounding to nearest and the best, over many rows."""
    weight, moments = drawn(40, 4, 2)
    wide = weight.astype(np.float64)
    _, grid = grid_of(wide, 4, INT4)
    every = np.array(list(itertools.product(range(-INT4.full, INT4.full + 1), repeat=4)))
    best = np.array([objective(every * step - row, moments).min() for row, step in zip(wide, grid.steps, strict=True)])
    ours = objective(compensated(wide, grid, INT4, factor(moments)) * grid.steps - wide, moments)
    plain = objective(nearest(wide, grid, INT4) * grid.steps - wide, moments)
    assert (ours >= best * (1 - 1e-12)).all()
    assert ours.sum() < 0.7 * plain.sum()


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [48, 41])
def test_no_row_loses(method: str, form: Format, n: int) -> None:
    weight, moments = drawn(30, n, 1)
    choice = choose(weight, moments, 16, form, method)
    to_nearest = choose(weight, moments, 16, form, "rtn").rounded
    errors = [objective(rounded.values.astype(np.float64) - weight, moments) for rounded in (choice.rounded, to_nearest)]
    assert (errors[0] <= errors[1] * (1 + 1e-12)).all()
    codes, scales = form.quantise(weight, 16)
    assert np.array_equal(to_nearest.codes, codes)
    assert np.array_equal(to_nearest.scales, scales)
    size = np.sqrt(objective(weight.astype(np.float64), moments).sum())
    assert choice.chosen == pytest.approx(np.sqrt(errors[0].sum()) / size)
    assert choice.nearest == pytest.approx(np.sqrt(errors[1].sum()) / size)
    assert choice.chosen <= (0.8 if "gptq" in method else 1) * choice.nearest
    # The compiler, which is shown the values alone, comes to the same integers.
    again = form.quantise(choice.rounded.values, 16)
    whole = reaches(choice.rounded.codes, form)  # with zero points not all of those to nearest do
    assert whole.all() or form.zero_points
    assert np.array_equal(again[0][whole], choice.rounded.codes[whole])
    assert np.array_equal(again[1][whole], choice.rounded.scales[whole])


def test_what_nothing_reads_is_rounded_to_nearest() -> None:
    weight, moments = drawn(5, 32)
    weight[0] = 0
    assert np.array_equal(
        choose(weight, 0 * moments, 16, INT4, "gptq").rounded.codes, choose(weight, moments, 16, INT4, "rtn").rounded.codes
    )
    moments[:, 7] = moments[7] = 0
    assert np.isfinite(choose(weight, moments, 16, INT4, "gptq").chosen)
