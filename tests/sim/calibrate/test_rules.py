"""Thresholds for a ratio: which channels they leave out, under each rule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.calibrate.budget import GRID, allocate
from sim.calibrate.observe import Seen
from sim.calibrate.rules import CHESS, RULES, TEAL, WINA, quantile, thresholds
from skipopu.numerics import mask

RNG = np.random.default_rng(0)


def key(x: np.ndarray) -> np.ndarray:
    return mask.key(x.astype(np.float32)).astype(np.int32) + mask.ONE


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.floats(0, 1))
def test_no_integer_leaves_out_closer_to_the_ratio(sums: list[int], ratio: float) -> None:
    ranked = np.array(sums, np.int32)
    found = quantile(ranked, ratio)
    off = [abs((ranked < at).mean() - ratio) for at in range(22)]
    assert abs((ranked < found).mean() - ratio) == pytest.approx(min(off))


@pytest.mark.parametrize("rule", RULES)
def test_the_ratio_is_left_out_of_all_channels_together(rule: str) -> None:
    x = RNG.standard_normal((500, 40)) * np.exp(RNG.standard_normal(40))
    up = np.abs(RNG.standard_normal((500, 40)))
    seen = Seen(key(x), False, np.abs(x / up).astype(np.float32), up.mean(0).astype(np.float32))
    norms = np.exp(RNG.standard_normal(40))
    for ratio in (0.25, 0.5, 0.9):
        found = thresholds(rule, seen, ratio, norms)
        assert (found.shape, found.dtype) == ((40,), np.uint16)
        assert (seen.sums < found).mean() == pytest.approx(ratio, abs=0.02)
    assert not thresholds(rule, seen, 0, norms).any()


def test_what_the_rules_weigh() -> None:
    x = RNG.standard_normal((400, 30)) * np.exp(RNG.standard_normal(30))
    norms, seen = np.exp(RNG.standard_normal(30)), Seen(key(x), False)
    one = thresholds(TEAL, seen, 0.5, norms)
    assert (one == one[0]).all()
    assert np.array_equal(one, thresholds(CHESS, seen, 0.5, norms)), "without a gate"
    weighed = np.abs(x) * norms
    out, bound = seen.sums < thresholds(WINA, seen, 0.5, norms), np.quantile(weighed, 0.5)
    # A key is off from a logarithm by up to 0.09 of a power of two, the norm's by half a step.
    assert weighed[out].max() < bound * 2**0.2
    assert weighed[~out].min() > bound / 2**0.2
    nothing = np.where(np.arange(30) == 3, 0, norms)
    assert thresholds(WINA, seen, 0.5, nothing)[3] == mask.NEVER


def test_behind_a_gate_a_channel_is_left_out_as_often_as_its_gate_is_small() -> None:
    gate, up = np.abs(RNG.standard_normal((1000, 4))) * [1, 1, 10, 10], RNG.standard_normal((1000, 4)) * [1, 10, 1, 10]
    seen = Seen(key(gate * up), False, gate.astype(np.float32), np.abs(up).mean(0).astype(np.float32))
    found = thresholds(CHESS, seen, 0.5, np.ones(4))
    weighed = gate * seen.up
    assert np.allclose((seen.sums < found).mean(0), (weighed < np.quantile(weighed, 0.5)).mean(0), atol=0.01)
    assert len(set(found)) == 4


def test_zeros_are_left_out_first() -> None:
    x = np.where(RNG.random((200, 10)) < 0.7, 0, RNG.standard_normal((200, 10)))
    for ratio in (0.1, 0.5):
        found = thresholds(TEAL, Seen(key(x), False), ratio, np.ones(10))
        assert np.array_equal(key(x) < found, x == 0)


def test_bytes_are_taken_where_they_cost_least() -> None:
    """As the best of all ways along the grid, where the curves bend upwards."""
    places, weigh = [(0, "a"), (0, "b"), (1, "a")], [300.0, 100.0, 200.0]
    curves = {place: [c * ratio**2 for ratio in GRID] for place, c in zip(places, (3.0, 0.5, 2.0), strict=True)}
    sizes = dict(zip(places, weigh, strict=True))
    points = {place: dict(zip(GRID, curve, strict=True)) for place, curve in curves.items()}
    for share in (0.1, 0.37, 0.6, 0.95):
        found = allocate(curves, sizes, share)
        assert sum(found[place] * sizes[place] for place in places) == pytest.approx(share * 600)
        cost = sum(np.interp(found[place], GRID, curves[place]) for place in places)
        ways = itertools.product(GRID, repeat=3)
        enough = [way for way in ways if sum(r * s for r, s in zip(way, weigh, strict=True)) >= share * 600]
        best = min(sum(points[place][ratio] for place, ratio in zip(places, way, strict=True)) for way in enough)
        assert cost <= best + 1e-9
    bent = allocate({(0, "a"): [1 - (1 - r) ** 2 for r in GRID], (0, "b"): curves[0, "a"]}, {(0, "a"): 1, (0, "b"): 1}, 0.4)
    assert sum(bent.values()) == pytest.approx(0.8)
