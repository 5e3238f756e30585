"""Repetition: what a part of a layer did is done again where the same state meets the same part.

A part of a layer (up to its routing decision, and behind it) whose units start from the same state with the same token lists takes
the same cycles, over layers and over tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sim.timing.reader import FIRST
from sim.timing.state import State
from sim.timing.times import Snapshot


@dataclass(frozen=True)
class Stretch:
    """What one pass through a part did: cycles of the dispatcher, counters, entries, the times it left, of which a snapshot forgets how long
    ago the memory ``sent`` the last weights (relative to the dispatcher's)."""

    cycles: int
    counters: tuple[tuple[str, int], ...]
    entries: int
    left: Snapshot
    sent: int


class Repeats:
    """Passes through parts of one run's layers. With ``wanted`` off, in check mode and for a timeline, all are walked through."""

    def __init__(self, state: State, wanted: bool, walk_through: Callable[[range], None]) -> None:
        self.state, self.walk_through = state, walk_through
        self.wanted = wanted and state.spans is None and not state.run.check
        self.stretches: dict[tuple[object, ...], Stretch] = {}
        self.sent = FIRST  # when the memory sent the last weights that were asked for in the latest part or before

    def through(self, part: range, about: tuple[object, ...]) -> None:
        """Walks through the instructions ``part``, or does what doing so from this state with the same ``about`` did."""
        if not self.wanted:
            self.walk_through(part)
            self.sent = self.state.times.last.sent
            return
        s, times, position = self.state, self.state.times, self.state.walk.position
        start = times.relative(position)
        # Ports are counted from the position's, but what is read from port 0 alone waits for what is written there.
        first_port = -position % s.machine.ports if start.written else 0
        key = (start, first_port, part.start, *about)
        known = self.stretches.get(key)
        if known is not None:
            times.now += known.cycles
            for name, amount in known.counters:
                s.counters[name] += amount
            s.entries += known.entries
            times.left, self.sent = known.left, times.now + known.sent
            return
        times.settle(position)
        now, entries, before = times.now, s.entries, dict(s.counters)
        self.walk_through(part)
        counters = tuple((name, amount - before[name]) for name, amount in s.counters.items() if amount != before[name])
        self.sent = times.last.sent
        left = times.relative(position)
        self.stretches[key] = Stretch(times.now - now, counters, s.entries - entries, left, self.sent - times.now)
