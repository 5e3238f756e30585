"""Who watches long steps of a compilation go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Follow = Callable[[str, Sequence[Any]], Iterable[Any]]  # (what is done with them, items) -> the items, one by one


def unseen(what: str, items: Sequence[Any]) -> Iterable[Any]:
    """Shows nobody."""
    del what
    return items
