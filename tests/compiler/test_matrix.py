"""Matrices computed some rows at a time equal those computed at once."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.frontend import tensors as frontend
from compiler.frontend.tensors import Tensors, rows_of
from compiler.graph.matrix import Matrix

ARRAYS = {name: np.random.default_rng(n).standard_normal((12, 5)).astype(np.float32) for n, name in enumerate("ab")}


def lazily(taken: list[int]) -> Matrix:
    """Both arrays under one another; ``taken`` gets the number of rows of each read."""

    def read(name: str, rows: slice) -> np.ndarray:
        taken.append(len(ARRAYS[name][rows]))
        return ARRAYS[name][rows]

    tensors = Tensors({name: array.shape for name, array in ARRAYS.items()}, read)
    return Matrix(tuple(rows_of(tensors, name) for name in ARRAYS))


def test_values_are_an_arrays() -> None:
    """Orders and factors mean what they mean to an array, bit by bit; tensors are read when values are asked for."""
    taken: list[int] = []
    gain, order = np.linspace(0.1, 3, 5, dtype=np.float32), np.random.default_rng(3).permutation(24)
    found = (lazily(taken) * gain * np.float32(0.7))[order]
    expected = (np.concatenate(list(ARRAYS.values())) * gain * np.float32(0.7))[order]
    assert found.shape == (24, 5)
    assert not taken
    assert np.array_equal(found.values(), expected)
    for part, rows in zip(found.split(3), np.split(expected, 3), strict=True):
        assert np.array_equal(part.values(), rows)


def test_blocks_read_their_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "BLOCK", 20)
    taken: list[int] = []
    blocks = list(lazily(taken).blocks())
    assert taken == [4] * 6
    assert np.array_equal(np.concatenate(blocks), np.concatenate(list(ARRAYS.values())))
    assert lazily(taken).largest() == max(np.abs(array).max() for array in ARRAYS.values())


def test_a_product_beyond_fp32_is_infinite() -> None:
    big = Matrix((np.full((2, 3), 1e30, np.float32),)) * np.full(3, 1e30, np.float32)
    assert big.largest() == np.inf
