"""Measured error of every approximation over its whole input range."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

from skipopu.numerics import activation, tables
from skipopu.numerics.activation import ACTIVATIONS

EXACT = {
    "exp2": lambda x: 2.0**-x,
    "reciprocal": lambda x: 1 / (1 + x),
    "rsqrt": lambda x: 1 / np.sqrt(np.where(x < 0.5, 1 + 2 * x, 4 * x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-16 * x)),
    "gelu_tanh": lambda x: 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (16 * x + 0.044715 * (16 * x) ** 3))),
    "normal": lambda x: torch.special.ndtr(torch.from_numpy(16 * x)).numpy(),
}


@pytest.mark.slow
@pytest.mark.parametrize("table", tables.TABLES, ids=lambda t: t.name)
def test_error_bound_holds_everywhere(table: tables.QuadraticTable) -> None:
    size, step = 1 << table.argument_bits, 1 << 21
    worst = 0.0
    for start in range(0, size, step):
        u = np.arange(start, min(start + step, size), dtype=np.int64)
        worst = max(worst, float(np.abs(table.evaluate(u) * 2.0**-tables.OUTPUT_BITS - EXACT[table.name](u / size)).max()))
    assert worst <= table.error_bound
    assert worst > table.error_bound / 8, "the stated bound is loose"


def test_functions_on_fp32() -> None:
    x = np.exp(np.linspace(-60, 60, 200001)).astype(np.float32)
    assert np.abs(tables.reciprocal(x) * x.astype(float) - 1).max() < 2.0**-21.9
    assert np.abs(tables.reciprocal_sqrt(x) * np.sqrt(x.astype(float)) - 1).max() < 2.0**-21.9
    y = np.linspace(-20, 20, 200001).astype(np.float32)
    assert np.abs(tables.sigmoid(y) - 1 / (1 + np.exp(-y.astype(float)))).max() < 2.0**-20.9
    d = np.linspace(0, 70, 200001).astype(np.float32)
    error = np.abs(tables.exp2_negative(d) * 2.0**-24 - 2.0 ** -d.astype(float))
    assert error.max() < 1.3 * 2.0**-24
    assert tables.exp2_negative(np.zeros(1, np.float32))[0] == 1 << 24


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_match_hugging_face(name: str) -> None:
    """f(x) * 1: the factor's absolute error times |x|, and a last rounding."""
    x = np.linspace(-20, 20, 200001).astype(np.float32)
    code, parameter = ACTIVATIONS[name]
    seen = activation.gated(code, x, np.ones_like(x), np.float32(parameter))
    expected = ACT2FN[name](torch.from_numpy(x.astype(float))).numpy()
    assert (np.abs(seen - expected) <= 2.0**-20.8 * np.maximum(np.abs(x), 1) + 2.0**-24 * np.abs(expected)).all()
