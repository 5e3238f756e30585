"""What is written to memory, and what a port's bus pays for it: entries in their ports, the rest in port 0."""

from __future__ import annotations

from collections.abc import Iterable

from sim.timing.reader import Windows
from skipopu.machine.config import Machine

Burst = tuple[int, int, int]  # port, when its last beat comes, beats
Bursts = tuple[Burst, ...]
Span = tuple[int, int]


class Writes:
    """When each port's data bus is taken from reads: for a burst once all of it came, and both its turnarounds.

    Bursts that come faster than the bus pays for them add up.
    """

    def __init__(self, machine: Machine) -> None:
        self.ports, self.turnaround = machine.ports, machine.memory.turnaround
        self.bursts: list[Burst] = []

    def add(self, bursts: Iterable[Burst]) -> None:
        self.bursts += bursts

    def windows(self, more: Iterable[Burst] = ()) -> dict[int, list[Span]]:
        """Of each port, with ``more`` to come."""
        found: dict[int, list[Span]] = {}
        for port, at, beats in sorted([*self.bursts, *more]):
            of_port = found.setdefault(port, [])
            start = max([at, *(end for _, end in of_port[-1:])])
            of_port.append((start, start + beats + 2 * self.turnaround))
        return found

    def forget(self, now: int) -> None:
        """What has no effect from ``now`` on."""
        # A burst that waited for one that is left out keeps its start.
        waits = 2 * self.turnaround
        of_ports = self.windows().items()
        self.bursts = [(port, start, end - start - waits) for port, windows in of_ports for start, end in windows if end > now]

    def left(self, now: int, first: int) -> Bursts:
        """What has an effect from ``now`` on, in times behind it and ports behind ``first``."""
        self.forget(now)
        return tuple(sorted(((port - first) % self.ports, at - now, beats) for port, at, beats in self.bursts))

    def restore(self, left: Bursts, now: int, first: int) -> None:
        """The inverse of :meth:`left`."""
        self.bursts = [((port + first) % self.ports, at + now, beats) for port, at, beats in left]

    def beside(self, reference: int, now: int, more: Iterable[Burst]) -> Windows:
        """Windows from ``now`` on of each port that has some, with ``more`` to come, in times behind ``reference``."""
        of_ports = self.windows(more).values()
        found = {tuple((start - reference, end - reference) for start, end in windows if end > now) for windows in of_ports}
        return tuple(sorted(found)) or ((),)

    def hold(self, at: int, port: int | None = None) -> int:
        """Cycles that a beat waits which could come at ``at``, from ``port`` or from all ports in lockstep."""
        longest = at
        for of_port, windows in self.windows().items():
            then = at
            for start, end in windows:
                if start <= then < end:
                    then = end
            if port in (None, of_port):
                longest = max(longest, then)
        return longest - at
