"""Tokens drawn from logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipopu.errors import ProgramError
from skipopu.sampling import GREEDY, Sampling

LOGITS = np.random.default_rng(0).standard_normal(40).astype(np.float32) * 2


def shares(logits: np.ndarray, temperature: float) -> np.ndarray:
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    return weights / weights.sum()


def drawn(sampling: dict, draws: int = 4000) -> np.ndarray:
    """How often each token is."""
    chosen = [Sampling(**sampling, seed=seed).choose(LOGITS, [0]) for seed in range(draws)]
    return np.bincount(chosen, minlength=len(LOGITS)) / draws


def test_greedy_is_the_lowest_of_the_best() -> None:
    assert GREEDY.choose(np.array([1, 3, 3, 2], np.float32), [0]) == 1
    assert GREEDY.greedy
    assert not Sampling(repetition_penalty=1.2).greedy


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_shares_are_those_of_softmax(temperature: float) -> None:
    # Of 4,000 draws a share's standard deviation is below 0.008.
    assert abs(drawn({"temperature": temperature}) - shares(LOGITS, temperature)).max() < 0.04


def test_the_best_ones_take_part() -> None:
    order = np.argsort(-LOGITS, kind="stable")
    for asked, count in (({"top_k": 3}, 3), ({"top_k": 99}, len(LOGITS)), ({"top_p": 1e-9}, 1)):
        found = drawn({"temperature": 1.0, **asked}, 800)
        assert set(np.flatnonzero(found)) <= set(order[:count].tolist())
    together = shares(LOGITS, 1.0)[order].cumsum()
    most = int(np.searchsorted(together, 0.7)) + 1
    found = drawn({"temperature": 1.0, "top_p": 0.7})
    expected = np.where(np.isin(np.arange(len(LOGITS)), order[:most]), shares(LOGITS, 1.0), 0) / together[most - 1]
    assert abs(found - expected).max() < 0.04


def test_what_occurred_is_less_likely() -> None:
    logits = np.array([2.0, 1.9, -1.0, -1.1], np.float32)
    assert Sampling(repetition_penalty=1.2).choose(logits, [0]) == 1
    assert Sampling(repetition_penalty=1.2).choose(np.array([-1.0, -1.1], np.float32), [0]) == 1


@given(st.integers(0, 1 << 40), st.integers(1, 300), st.floats(0.1, 3), st.integers(0, 50), st.floats(0.01, 1))
def test_a_draw_depends_on_seed_and_position_alone(seed: int, length: int, temperature: float, k: int, p: float) -> None:
    one, other = (Sampling(temperature, k, p, 1.0, seed).choose(LOGITS, before) for before in ([0] * length, [5] * length))
    assert one == other
    assert 0 <= one < len(LOGITS)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"temperature": -1}, "temperature is -1; accepted: 0, or a number from 1e-06 to 1e\\+06"),
        ({"temperature": float("nan")}, "temperature is nan; accepted: 0, or"),
        ({"top_k": 3}, "top_k is 3; it has no effect without a temperature"),
        ({"top_p": 0.5, "repetition_penalty": 1.1}, "top_p is 0.5; it has no effect"),
        ({"top_k": -1}, "top_k is -1; accepted: an integer from 0"),
        ({"top_p": 0}, "top_p is 0; accepted: a number above 0, up to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; accepted: "),
        ({"temperature": 1e-320}, "temperature is 1e-320; accepted: 0, or a number from 1e-06"),
        ({"top_k": 2.5}, "top_k is 2.5; accepted: an integer"),
        ({"seed": 1 << 128}, "seed is 340282366920938463463374607431768211456; accepted: an integer from 0"),
        ({"seed": -1}, "seed is -1; accepted: an integer from 0"),
    ],
)
def test_refused(asked: dict, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        Sampling(**asked)


def test_logits_that_are_no_numbers() -> None:
    with pytest.raises(ProgramError, match="logits at position 1 are not all finite"):
        Sampling(1.0).choose(np.array([1, np.nan], np.float32), [0, 1])
