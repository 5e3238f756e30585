"""What is wrong is refuted, what cannot happen is not reached, and what was assumed counts: else a proof would say nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.formal import prove
from tests.formal.laws import Laws
from tests.formal.prove import outcomes

MOST = 5


@pytest.mark.formal
def test_wrong_laws_are_refuted(tmp_path: Path) -> None:
    """Of a counter that stands at 5, and that is never told to count while it stands there."""
    laws = Laws()
    step = laws.free(1)
    value = laws.counter(4, step, 0)
    laws.assume(~(step & (value == MOST)))
    laws.law("it never passes 5", value <= MOST)
    laws.law("it never comes to 5", value < MOST)
    laws.law("it does not come to 5 in its first 5 cycles", value < MOST, bound=5)
    laws.law("it does not come to 5 in its first 6 cycles", value < MOST, bound=6)
    laws.law("an input is never 1", ~step)
    laws.law("it is what it is", value == value)
    laws.reached("it comes to 5", value == MOST)
    laws.reached("it comes to 6", value == MOST + 1)
    laws.reached("it comes to 5 in its first 5 cycles", value == MOST, within=5)
    laws.reached("it comes to 5 in its first 6 cycles", value == MOST, within=6)
    laws.reached("it is 0 in its first cycle", value == 0, within=1)
    found = outcomes(laws, tmp_path)
    assert [outcome.said for outcome in found] == [
        "impossible",
        "found",
        "not found in 5 cycles",
        "found in cycle 6",
        "found",
        "impossible",
        "found in cycle 6",
        "impossible",
        "not found in 5 cycles",
        "found in cycle 6",
        "found in cycle 1",
    ]
    assert [outcome.holds for outcome in found] == [True, False, True, False, False, True, True, False, False, True, True]
    assert [outcome.cycle for outcome in found] == [0, 0, 0, 6, 0, 0, 6, 0, 0, 6, 1]


@pytest.mark.formal
def test_what_takes_too_long_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laws = Laws()
    laws.law("an input is what it is", (value := laws.free(1)) == value)
    prove.prepare(laws, tmp_path)
    monkeypatch.setattr(prove, "LONGEST", 0)
    outcome = prove._outcome(laws.claims[0], 0, tmp_path)
    assert (outcome.said, outcome.holds) == ("undecided after 0 s of a processor", False)
