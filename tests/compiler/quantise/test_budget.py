"""What fits a number of bytes, and which products go together."""

from __future__ import annotations

import itertools

import numpy as np

from compiler.quantise.budget import parts, within
from tests.support import small_config


def test_the_most_gain_that_fits() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        names = [(name,) for name in "abcdef"]
        costs = {name: int(cost) for name, cost in zip(names, rng.integers(1, 50, 6), strict=True)}
        gains = {name: float(gain) for name, gain in zip(names, rng.normal(0.5, 1, 6), strict=True)}
        room = int(rng.integers(0, 120))
        chosen = within(room, costs, gains)
        every = [some for count in range(7) for some in itertools.combinations(names, count)]
        best = max(sum(gains[n] for n in some) for some in every if sum(costs[n] for n in some) <= room)
        assert sum(costs[name] for name in chosen) <= room
        assert sum(gains[name] for name in chosen) == best
    assert within(9, {("a",): 9, ("b",): 4}, {("a",): 0.0, ("b",): -1.0}) == []
    assert within(9, {("a",): 9, ("b",): 4}, {("a",): 1.0, ("b",): 1.0}) == [("b",)]


def test_rows_of_one_instruction_or_tensor_have_one_format() -> None:
    config = small_config()
    assert parts(config) == [("q",), ("k", "v"), ("o",), ("gate", "up"), ("down",), ("head",)]
    assert parts(small_config(gated=False))[3] == ("up",)
    fused = parts(config, lambda product: "qkv" if product in "qkv" else product)
    assert fused == [("q", "k", "v"), ("o",), ("gate", "up"), ("down",), ("head",)]
