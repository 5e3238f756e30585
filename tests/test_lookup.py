"""Drafts by prompt lookup, against a search from the definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipopu.errors import ProgramError
from skipopu.lookup import Lookup


def searched(lookup: Lookup, ids: list[int], most: int) -> tuple[int, ...]:
    """The latest of the places that end like ``ids`` over the most tokens."""

    def equal(end: int) -> int:
        return next((n for n in range(lookup.longest) if n > end or ids[end - n] != ids[-1 - n]), lookup.longest)

    lengths = [equal(end) for end in range(len(ids) - 1)]
    best = max(lengths, default=0)
    if best < lookup.shortest:
        return ()
    end = max(k for k, length in enumerate(lengths) if length == best)
    return tuple(ids[end + 1 : end + 1 + min(most, lookup.drafts)])


@given(st.lists(st.integers(0, 2), max_size=24), st.integers(0, 5), st.integers(0, 5), st.integers(1, 4), st.integers(0, 4))
def test_the_longest_suffix_match(ids: list[int], most: int, drafts: int, shortest: int, more: int) -> None:
    lookup = Lookup(drafts, shortest, shortest + more)
    assert lookup.draft(ids, most) == searched(lookup, ids, most)


def test_what_follows() -> None:
    assert Lookup(3).draft([1, 2, 3, 4, 9, 1, 2], 8) == (3, 4, 9)
    assert Lookup(3).draft([5, 1, 2, 3, 1, 2, 4, 5, 1, 2], 1) == (3,), "the longer match, though it is older"
    assert Lookup(8).draft([7, 7, 7, 7], 8) == (7,), "no more than is there"
    assert Lookup(2).draft([1, 2, 3], 2) == ()


@pytest.mark.parametrize(
    ("fields", "name"), [({"drafts": -1}, "drafts"), ({"shortest": 0}, "shortest"), ({"longest": 1}, "longest")]
)
def test_ranges(fields: dict[str, int], name: str) -> None:
    with pytest.raises(ProgramError, match=f"{name} is"):
        Lookup(**{"drafts": 1, **fields})
