"""Entries of the KV history on their way through a port, one behind the other: ``hw/kv/fetch.py`` and ``hw/kv/walk.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sim.timing.reader import FIRST, NOTHING, READABLE, Reader
from sim.timing.refresh import pace, phases
from skipopu.machine.config import BEATS_HELD, ENTRIES_AHEAD, ENTRIES_HELD, Machine

WANTED = ENTRIES_AHEAD + 1  # per port: those asked for and the one whose turn is next
REQUEST = 3  # cycles from an entry's first burst to the next one's
FIRST_ENTRIES = 24  # walked one by one, more than are ever under way; behind them entries follow one another evenly


@dataclass(frozen=True)
class EntryPace:
    """How entries follow one another that a port reads.

    ends: when so many are used up, in cycles from the first one's beginning, in a memory without refreshes; undisturbed, period:
    cycles of an entry in the long run, without them and with them.
    """

    ends: tuple[int, ...]
    undisturbed: float
    period: float

    def until(self, count: float) -> float:
        """Cycles from the first entry's beginning to the end of the ``count``th, which may be between two."""
        known = min(count, len(self.ends) - 1.0)
        whole = int(known)
        begun = self.ends[whole] + (known - whole) * (self.ends[min(whole + 1, len(self.ends) - 1)] - self.ends[whole])
        return begun * self.period / self.undisturbed + (count - known) * self.period


@lru_cache(maxsize=4096)
def entry_pace(machine: Machine, ports: int, entry: int, run: int, header: int, steps: int, least: int) -> EntryPace:
    """Many entries are read in ``ports`` of which ``run`` beats are wanted, ``entry`` beats apart.

    Their first ``header`` beats are used up at once, the others ``steps`` cycles each; an entry takes ``least`` cycles anyway.
    """
    given = (machine, entry, run, header, steps, least)
    ends, even = walk_entries(*given, [None])
    return EntryPace(
        (0, *ends[:FIRST_ENTRIES]), even, walk_entries(*given, phases(machine, ports))[1] if machine.memory.refresh else even
    )


def walk_entries(
    machine: Machine, entry: int, run: int, header: int, steps: int, least: int, refreshes: Sequence[int | None]
) -> tuple[list[int], float]:
    """When the entries of :func:`entry_pace` are used up, with each port's ``refreshes``, and the cycles of one in the long run."""
    memory, page = machine.memory, 4096 // machine.beat_bytes
    readers = [Reader(machine, memory.moving, NOTHING, phase, machine.kv_fifo, machine.kv_fifo) for phase in refreshes]
    takes: list[int] = []
    begun: list[int] = []
    ends: list[int] = []
    end, first, asked = FIRST, FIRST, 0
    cycles = 4 * memory.refresh_interval
    count = max(FIRST_ENTRIES, min(400, cycles // max(run, least)))
    for number in range(count):
        # The walk over the map visits the ports in turn; so many entries are wanted at most.
        due = max(number * machine.ports, first + REQUEST, asked + 2)
        if number > WANTED:
            due = max(due, begun[number - WANTED - 1] + 2)
        at = number * entry % page
        left, start, beat = run, 0, 0
        while left:
            size = min(left, machine.burst, page - at % page)
            ready = [reader.bring(size, due, takes) for reader in readers]
            if left == run:
                first = max(reader.asked for reader in readers)
            left, at = left - size, at + size
            for push in map(max, zip(*ready, strict=True)):
                if not beat:
                    start = end = max(end + 2, push + READABLE)
                    begun.append(start)
                begin = max(end, push + READABLE)
                end = begin + (1 if beat < header else steps)
                takes.append(end - 1)
                beat += 1
        asked = max(reader.asked for reader in readers)
        end = max(end - 1, start + least - 2)
        ends.append(end - begun[0])
    return ends, 1 / pace(begun, memory.refresh_interval)


@lru_cache(maxsize=4096)
def held_pace(
    machine: Machine, ports: int, entry: int, run: int, header: int, word: float, together: int, least: int
) -> EntryPace:
    """The same where beats wait in the buffer of a stationary array: ``together`` entries' words are used up in ``word`` cycles each."""
    given = (machine, entry, run, header, word, together, least)
    ends, even = walk_held(*given, [None])
    return EntryPace(
        (0, *ends[:FIRST_ENTRIES]), even, walk_held(*given, phases(machine, ports))[1] if machine.memory.refresh else even
    )


def walk_held(
    machine: Machine, entry: int, run: int, header: int, word: float, together: int, least: int, refreshes: Sequence[int | None]
) -> tuple[list[int], float]:
    """As :func:`walk_entries`, of :func:`held_pace`: ``hw/kv/stationary/held.py`` and ``hw/kv/stationary/walk.py``."""
    memory, page = machine.memory, 4096 // machine.beat_bytes
    readers = [Reader(machine, memory.moving, NOTHING, phase, machine.kv_fifo, machine.kv_fifo) for phase in refreshes]
    takes: list[int] = []  # when beats go from the loader into the buffer
    begun: list[int] = []  # when entries' first ones do
    freed: list[float] = []  # when beats are used up
    ends: list[float] = []
    end, first, asked, begins = float(FIRST), FIRST, 0, 0.0
    count = max(FIRST_ENTRIES, min(400, 4 * memory.refresh_interval // max(run, least))) // together * together
    for number in range(count):
        due = max(number * machine.ports, first + REQUEST, asked + 2)
        if number > WANTED:
            due = max(due, begun[number - WANTED - 1] + 2)
        at = number * entry % page
        left, start, beat = run, 0.0, 0
        alone, last = together == 1, number % together == together - 1
        while left:
            size = min(left, machine.burst, page - at % page)
            ready = [reader.bring(size, due, takes) for reader in readers]
            if left == run:
                first = max(reader.asked for reader in readers)
            left, at = left - size, at + size
            for push in map(max, zip(*ready, strict=True)):
                take = max(push + READABLE, takes[-1] + 1 if takes else 0)
                if len(takes) >= BEATS_HELD:
                    take = max(take, int(freed[len(takes) - BEATS_HELD]) + 1)
                if not beat:
                    if number >= ENTRIES_HELD:
                        take = max(take, int(ends[number - ENTRIES_HELD]) + 1)
                    begun.append(take)
                takes.append(take)
                if last:
                    if not beat:
                        start = end = max(end + 1, take + 1.0)
                    end = max(end, take + 1.0) + (1 if beat < header else word)
                    if alone:
                        freed.append(end)
                beat += 1
        asked = max(reader.asked for reader in readers)
        if last:
            end = max(end, start + least * together - 1)
            begins = begins or start
            if not alone:
                freed += [end] * (run * together)
            ends += [start + (end - start) * (k + 1) / together for k in range(together)]
    return [round(time - begins) for time in ends], 1 / pace(begun, memory.refresh_interval)
