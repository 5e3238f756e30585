"""A client's reader in a port and the memory behind it, burst by burst: ``hw/memory/reader.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from skipopu.machine.config import Machine

FIRST = -(1 << 40)  # long ago
PUSHED = 1  # cycles from the memory's sending a beat to its place in the FIFO
READABLE = 2  # from there to the cycle in which it can be taken
UNIT = 1024  # of rates: a beat per cycle. A slow memory keeps up to two beats' worth when it pauses.
Windows = tuple[tuple[tuple[int, int], ...], ...]  # per port, from when to when its bus is taken


class Pending(NamedTuple):
    """What a port's weight reader still remembers of products before, relative to the cycle of its last burst.

    run: when it accepted its last run. accepted: when the memory accepted the last address. sent: when it sent its last beat, credit:
    what its rate left it then. takes: when beats are taken that hold places. pushes: when beats come that are on their way.
    finishes: when bursts under way end.
    """

    run: int = FIRST
    accepted: int = FIRST
    sent: int = FIRST
    credit: int = 2 * UNIT
    takes: tuple[int, ...] = ()
    pushes: tuple[int, ...] = ()
    finishes: tuple[int, ...] = ()

    def until(self) -> int:
        """From when on nothing of this matters."""
        return max(self.run + 5, self.accepted + 256, self.sent + 256, *(times[-1] + 1 for times in self[4:] if times), 0)

    def settled(self, asked: int, now: int) -> tuple[Pending, int]:
        """This and its time, forgotten when no request from ``now`` on depends on it."""
        return (NOTHING, FIRST) if now >= asked + self.until() else (self, asked)


NOTHING = Pending()


class Reader:
    """A client's reader in a port, of weights if nothing is said, and the memory behind it.

    Refreshes, if ``phase`` is given, start ``phase`` cycles behind cycle 0 and come again.
    """

    def __init__(
        self, machine: Machine, rate: float, pending: Pending, phase: int | None = None, depth: int = 0, most: int = 0
    ) -> None:
        memory = machine.memory
        self.depth = depth or machine.weight_fifo
        self.most = (most or machine.weights_in_flight or machine.weight_fifo) - machine.burst
        self.page = 4096 // machine.beat_bytes
        self.latency, self.issue, self.outstanding = memory.latency, memory.issue, memory.outstanding
        self.rate, self.interval, self.refresh = round(rate * UNIT), memory.refresh_interval, memory.refresh
        self.phase = phase
        self.asked, self.accepted, self.sent, self.credit = 0, pending.accepted, pending.sent, pending.credit
        self.places = len(pending.takes)
        self.pushes, self.finishes = list(pending.pushes), list(pending.finishes)

    def bring(self, size: int, due: int, takes: list[int], blocked: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Asks for a burst at ``due`` or later; returns when its beats are in the FIFO. ``takes``: of beats before."""
        places = self.places + size
        issue = max(due, self.accepted)
        if places > self.depth:
            issue = max(issue, takes[places - self.depth - 1] + 1)
        if len(self.pushes) > self.most:
            issue = max(issue, self.pushes[len(self.pushes) - self.most - 1] + 1)
        accepted = max(issue + 1, self.accepted + self.issue)
        if len(self.finishes) >= self.outstanding:
            accepted = max(accepted, self.finishes[-self.outstanding] + 1)
        self.places, self.asked, self.accepted = places, issue, accepted
        at, times = max(self.sent + 1, accepted + self.latency), []
        while size and (self.phase is not None or any(end > at for _, end in blocked)):
            times += self.send(self.clear(at, blocked), 1)
            at, size = self.sent + 1, size - 1
        if size:
            times += self.send(at, size)
        self.pushes += times
        self.finishes.append(self.sent)
        return times

    def send(self, at: int, size: int) -> list[int]:
        """Sends beats from ``at`` on as fast as the rate allows; returns when they are in the FIFO."""
        rate, last = self.rate, size - 1
        if rate == UNIT:
            self.sent = at + last
            return list(range(at + PUSHED, at + size + PUSHED))
        credit = min(2 * UNIT, self.credit + rate * (at - self.sent))
        if credit < UNIT:
            wait = -((credit - UNIT) // rate)
            at, credit = at + wait, credit + wait * rate
        credit -= UNIT
        # A beat's turn comes when the rate has earned it.
        behind = [max(i, -((credit - i * UNIT) // rate)) for i in range(size)]
        self.sent, self.credit = at + behind[last], credit + rate * behind[last] - last * UNIT
        return [at + PUSHED + i for i in behind]

    def clear(self, at: int, blocked: Sequence[tuple[int, int]]) -> int:
        """``at``, or when neither a refresh nor other traffic is in the way any more."""
        if self.phase is not None and (since := (at - self.phase) % self.interval) < self.refresh:
            at += self.refresh - since
        for start, end in blocked:
            if start <= at < end:
                at = end
        return at

    def skip(self, cycles: int, places: int) -> None:
        """Everything so far happened ``cycles`` later, and all beats were taken: the latest ``places`` are remembered."""
        self.asked, self.accepted, self.sent = self.asked + cycles, self.accepted + cycles, self.sent + cycles
        self.places = places
        self.pushes = [time + cycles for time in self.pushes[-self.depth :]]
        self.finishes = [time + cycles for time in self.finishes[-self.outstanding :]]
