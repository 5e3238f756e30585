"""The weights of one product on their way through a port and a stationary array: ``hw/control/channels.py``, ``hw/pe/stationary/sequencer.py``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from sim.timing.flow import Flow, ended, under_way
from sim.timing.multiplying import PUT_ASIDE as PUT_ASIDE
from sim.timing.multiplying import Multiplying
from sim.timing.reader import FIRST, READABLE, Pending, Reader, Windows
from skipopu.machine.config import TOKENS_AT_ONCE, Machine

RUN = 3  # cycles from a run to the next one; that ports keep some ahead matters only where they are very short

SHORT = 4  # bursts in a FIFO in which it matters where they end


class Group(NamedTuple):
    """Beats of a group. head: of scales and zero points. parts: of codes, those of each part."""

    head: int
    parts: tuple[int, ...]

    @property
    def beats(self) -> int:
        return self.head + sum(self.parts)


class Tile(NamedTuple):
    """Tiles that are alike; a tile is a run of beats.

    times: how many follow one another. groups: of each, like ``group``. sums: that a part leaves per token. drained: those of the last token
    behind which rounds are drained. drain: cycles of its rounds' drains.
    """

    times: int
    groups: int
    group: Group
    sums: int
    drained: int
    drain: int

    @property
    def beats(self) -> int:
        """Of one."""
        return self.groups * self.group.beats


@dataclass(frozen=True)
class Tiles:
    """A product's weights in the fullest port.

    Attributes:
        tiles: in their order. slots: tokens.
        page: beats from the first one to the next page of memory.
        ports: how many have weights of it.
    """

    tiles: tuple[Tile, ...]
    slots: int
    page: int
    ports: int

    @property
    def beats(self) -> int:
        return sum(tile.times * tile.beats for tile in self.tiles)

    @property
    def passes(self) -> int:
        """How often a beat is multiplied."""
        return -(-self.slots // TOKENS_AT_ONCE)

    @property
    def array_steps(self) -> int:
        """Of all codes."""
        return self.passes * sum(tile.times * tile.groups * sum(tile.group.parts) for tile in self.tiles)

    @property
    def kind(self) -> tuple[object, ...]:
        """What the pace of a long stream depends on."""
        return self.tiles[0].group, self.tiles[0].sums, self.slots, self.ports

    def endless(self, pairs: int) -> Tiles:
        """A long stream of this kind, of one tile and at least ``pairs`` pairs of beats."""
        tile = self.tiles[0]
        return Tiles((tile._replace(times=1, groups=-(-2 * pairs // tile.group.beats)),), self.slots, 1 << 30, self.ports)

    def flow(
        self,
        machine: Machine,
        readers: list[Reader],
        pending: Pending,
        due: int,
        begin: int,
        blocked: Windows = ((),),
        takes: list[int] | None = None,
    ) -> Flow:
        """See :func:`flow`."""
        return flow(machine, self, readers, pending, due, begin, blocked, takes)


class Mark(NamedTuple):
    """How things stand at the end of a window. last: step. lag: from the latest beat to it, slack: how long that one had been there.
    stalled, held: waits so far."""

    last: int
    lag: int
    slack: int
    stalled: int
    held: int


class Walk(Multiplying):
    """The array. Filling knows when beats come; a part's multiplying follows from when its first and its last beat are taken.

    Attributes:
        slack: how long the latest beat had been there when it was taken.
        ended: the present tile's groups that are done. marks: at ends of windows of so many groups.
    """

    def __init__(self, machine: Machine, shape: Tiles, begin: int, takes: list[int], undisturbed: int) -> None:
        super().__init__(machine, shape, begin, takes)
        self.undisturbed, self.slack = undisturbed, 0

    def enter(self, tile: Tile, window: int) -> None:
        """The next beat is the first of ``tile``."""
        self.tile, self.window, self.marks = tile, window, list[Mark]()
        self.ended, self.part, self.left, self.opened = 0, -1, tile.group.head, 0

    def mark(self) -> Mark:
        return Mark(self.last, self.last - self.take, self.slack, self.stalled, self.held)

    def feed(self, arrivals: list[int]) -> None:
        """Beats of the present tile, which come at ``arrivals``."""
        at, count, take = 0, len(arrivals), self.take
        while at < count:
            some = min(count - at, self.left)
            opens = self.part >= 0 and self.left == self.tile.group.parts[self.part]
            if opens:
                take = max(take, self.free[self.half])
            last = arrivals[at + some - 1] + READABLE
            if last <= take + 1:
                taken = list(range(take + 1, take + 1 + some))
            else:
                taken, before = [], take
                for arrival in arrivals[at : at + some]:
                    before = arrival + READABLE if arrival + READABLE > before else before + 1
                    taken.append(before)
            self.takes += taken
            if opens:
                self.opened = taken[0]
            self.take = take = taken[-1]
            self.slack = take - last
            at, self.left = at + some, self.left - some
            if not self.left:
                self.next()

    def next(self) -> None:
        """The scales or a part are complete."""
        group = self.tile.group
        if self.part >= 0:
            self.multiply(group.parts[self.part], self.part == self.ended == 0, self.tile.sums)
        self.part += 1
        if self.part == len(group.parts):
            self.part, self.ended = -1, self.ended + 1
            if self.ended == self.tile.groups:
                self.drain(self.tile)
            elif self.window and self.last >= self.undisturbed and not self.ended % self.window:
                self.marks.append(self.mark())
        self.left = group.parts[self.part] if self.part >= 0 else group.head

    def skip(self, count: int, marks: list[Mark], kept: int) -> int:
        """``count`` times more what was done between the last of three ``marks``; returns in how many cycles. ``kept``: beats to remember."""
        first, _, last = marks
        later = count * (last.last - first.last) // 2
        self.take, self.last, self.spaced, self.opened = (t + later for t in (self.take, self.last, self.spaced, self.opened))
        self.free = [time + later for time in self.free]
        self.stalled += count * (last.stalled - first.stalled) // 2
        self.held += count * (last.held - first.held) // 2
        self.takes[:] = [time + later for time in self.takes[-kept:]]
        return later


def window(machine: Machine, unit: int) -> int:
    """After how many units of so many beats everything may repeat: all bursts that may be under way, twice; whole fillings of a short FIFO."""
    fifo = machine.weight_fifo if machine.weight_fifo <= SHORT * machine.burst else 1
    least = math.lcm(unit, fifo) // unit
    return -(-2 * under_way(machine) // (unit * least)) * least


def more(machine: Machine, marks: list[Mark], beats: int, most: int) -> tuple[int, int]:
    """How often the latest windows of ``beats`` can be repeated, ``most`` at most, and how much sooner their beats are taken each time.

    A FIFO that fills or empties from window to window goes on doing so until it is full or empty.
    """
    first, middle, last = marks
    span, drift = last.last - first.last, (last.slack - first.slack) / 2
    if drift < 0:
        most = min(most, int(last.slack // -drift) - 2)
    elif drift > 0:
        most = min(most, int((machine.weight_fifo * span / (2 * beats) - last.slack) // drift) - 2)
    even = abs(last.last - 2 * middle.last + first.last) <= 1 + span // 200
    even = even and abs(last.slack - 2 * middle.slack + first.slack) <= 2 and abs(last.lag - first.lag) <= 2
    return (most, int(most * drift)) if even and most > 0 else (0, 0)


def flow(
    machine: Machine,
    shape: Tiles,
    readers: list[Reader],
    pending: Pending,
    due: int,
    begin: int,
    blocked: Windows = ((),),
    takes: list[int] | None = None,
) -> Flow:
    """As :func:`sim.timing.flow.flow`: walks a product, whose weights are a run of beats for each tile."""
    keep = takes is not None
    undisturbed = max((end for windows in blocked for _, end in windows), default=due)  # nothing repeats before
    walk = Walk(machine, shape, begin, [] if takes is None else takes, undisturbed)
    walk.takes += pending.takes
    page, whole, kept = shape.page, 4096 // machine.beat_bytes, machine.weight_fifo
    run = FIRST
    for tile in shape.tiles:
        groups, together = window(machine, tile.group.beats), window(machine, tile.beats)
        times, marks = tile.times, list[Mark]()
        while times:
            walk.enter(tile, 0 if keep else groups)
            left, first = tile.beats, run == FIRST
            accepted = [due - 1 if first else max(run + RUN, reader.asked + 1) for reader in readers]
            run = max(accepted)
            while left:
                size = min(left, machine.burst, page)
                ready = [
                    reader.bring(size, since + 1, walk.takes, windows)
                    for reader, since, windows in zip(readers, accepted, blocked, strict=True)
                ]
                left, page = left - size, page - size or whole
                walk.feed(ready[0] if len(ready) == 1 else list(map(max, zip(*ready, strict=True))))
                if len(walk.marks) >= 3 and left:
                    seen, walk.marks = walk.marks[-3:], walk.marks[-2:]
                    beats = groups * tile.group.beats
                    count, sooner = more(machine, seen, beats, (tile.groups - walk.ended) // groups - 1)
                    if count:
                        later = walk.skip(count, seen, kept)
                        for reader in readers:
                            reader.skip(later - sooner, len(walk.takes))
                        walk.ended += count * groups
                        walk.marks = []
                        left, page = left - count * beats, (page - count * beats - 1) % whole + 1
            times -= 1
            if not keep and walk.last >= undisturbed and not times % together:
                marks.append(walk.mark())
            if len(marks) >= 3:
                seen, marks = marks[-3:], marks[-2:]
                beats = together * tile.beats
                count, sooner = more(machine, seen, beats, times // together - 1)
                if count:
                    later = walk.skip(count, seen, kept)
                    walk.before, walk.drained = walk.before + later, walk.drained + later
                    for reader in readers:
                        reader.skip(later - sooner, len(walk.takes))
                    run += later - sooner
                    times, page, marks = times - count * together, (page - count * beats - 1) % whole + 1, []
    return ended(machine, readers, run, walk.takes, begin, (walk.last, walk.drained + 1, walk.stalled), walk.held)
