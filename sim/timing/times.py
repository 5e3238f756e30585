"""When the units of a machine are free, and what they still wait for."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from sim.timing.costs import HANDOVER
from sim.timing.reader import FIRST, NOTHING, Pending
from sim.timing.writes import Bursts, Writes
from skipopu.isa.spec import Unit
from skipopu.machine.config import QUEUE_DEPTH, Machine

EARLY = -HANDOVER  # earlier than it takes to hand over, all times are the same


@dataclass
class Last:
    """When things were done last.

    Attributes:
        sent: the memory sent the last beat of the last burst of weights.
        since, until: attention brought keys and values, which go before weights.
        route_done: a routing decision. entries_done: a KVWRITE.
    """

    sent: int = FIRST
    since: int = 0
    until: int = 0
    route_done: int = 0
    entries_done: int = 0


class Snapshot(NamedTuple):
    """All of :class:`Times` relative to the dispatcher's; what is too early to matter is equal."""

    pending: Pending
    asked: int
    last: tuple[int, ...]
    written: Bursts
    free: tuple[int, ...]
    finished: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[int, ...], ...]


class Times:
    """Cycles of one run.

    Attributes:
        now: of the dispatcher.
        last: when things were done.
        free: when each unit can start its next instruction. finished: when its latest were done, as many as its queue holds.
        tokens: of each pair of units, when the dependence tokens were given that were not taken yet.
        pending: what the fullest port's weight reader remembers, relative to ``asked``, when it asked for its last burst.
        writes: what is written to memory.
        recorded: when the last record of check mode is written; not part of a snapshot.
        left: a snapshot in whose place nothing was put yet, see :meth:`settle`.
    """

    def __init__(self, machine: Machine) -> None:
        self.now = 0
        self.last = Last()
        self.free = dict.fromkeys(Unit, 0)
        self.finished: dict[Unit, deque[int]] = {unit: deque(maxlen=QUEUE_DEPTH) for unit in Unit}
        self.tokens: dict[tuple[Unit, Unit], list[int]] = {(a, b): [] for a in Unit for b in Unit}
        self.pending, self.asked = NOTHING, FIRST
        self.writes = Writes(machine)
        self.recorded = 0
        self.left: Snapshot | None = None

    def relative(self, position: int) -> Snapshot:
        """What these times are to an instruction that is dispatched now, for the token at ``position``."""
        if self.left is not None:
            return self.left
        now = self.now
        pending, asked = self.pending.settled(self.asked, now)
        return Snapshot(
            pending,
            max(asked - now, EARLY) if pending == NOTHING else asked - now,
            tuple(max(time - now, EARLY) for time in vars(self.last).values()),
            self.writes.left(now, position),
            tuple(max(time - now, EARLY) for time in self.free.values()),
            tuple(tuple(max(time - now, EARLY) for time in times) for times in self.finished.values()),
            tuple(tuple(max(time - now, EARLY) for time in times) for times in self.tokens.values()),
        )

    def settle(self, position: int) -> None:
        """Puts what was left in place: the inverse of :meth:`relative`."""
        if self.left is None:
            return
        now, left, self.left = self.now, self.left, None
        self.pending, self.asked = left.pending, now + left.asked
        self.last = Last(*(now + time for time in left.last))
        self.writes.restore(left.written, now, position)
        self.free = {unit: now + time for unit, time in zip(self.free, left.free, strict=True)}
        for queue, times in zip(self.finished.values(), left.finished, strict=True):
            queue.clear()
            queue.extend(now + time for time in times)
        self.tokens = {pair: [now + time for time in times] for pair, times in zip(self.tokens, left.tokens, strict=True)}

    def present(self) -> tuple[Last, int]:
        """When things were done last, and when attention is free, in place or not."""
        if self.left is None:
            return self.last, self.free[Unit.ATTENTION]
        return Last(*(self.now + time for time in self.left.last)), self.now + self.left.free[Unit.ATTENTION]

    def idle(self) -> int:
        """When everything issued so far is done."""
        return max([self.now, *(times[-1] + HANDOVER for times in self.finished.values() if times)])
