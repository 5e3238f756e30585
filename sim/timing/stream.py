"""The weights of a product on their way through a port, burst by burst: ``hw/memory/reader.py`` and ``hw/pe/sequencer.py``."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from skipopu.machine.config import Machine

FIRST = -(1 << 40)  # long ago
PUSHED = 1  # cycles from the memory's sending a beat to its place in the FIFO
READABLE = 2  # from there to the cycle in which it can be taken
LONG = 32
COARSE = 256  # what is remembered of it from product to product
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


@dataclass(frozen=True)
class Shape:
    """A product's weights in the fullest port.

    Attributes:
        slots: tokens that each pair of beats is multiplied with.
        pairs: pairs of beats. per_word: pairs behind each scale word of scale beats. per_round: pairs of a round.
        page: beats from the first one to the next page of memory.
        flight: cycles from a round's last step until it is drained, which takes drain, the last one last_drain.
        ports: how many have weights of it.
    """

    slots: int
    pairs: int
    per_word: int
    scale: int
    per_round: int
    page: int
    flight: int
    drain: int
    last_drain: int
    ports: int

    def beats_of(self, pairs: int) -> int:
        return -(-pairs // self.per_word) * self.scale + 2 * pairs

    @property
    def beats(self) -> int:
        return self.beats_of(self.pairs)

    def window(self, machine: Machine) -> int:
        """Pairs after which everything may repeat: whole rounds and scale words, all bursts that may be under way, twice."""
        memory = machine.memory
        loop = min(machine.weights_in_flight or machine.weight_fifo, memory.outstanding * machine.burst, memory.latency)
        unit = math.lcm(self.per_round, self.per_word)
        return -(-max(loop, 2 * machine.burst) // unit) * unit


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


@dataclass(frozen=True)
class Flow:
    """What one product's stream did, in cycles behind the first in which a beat could be taken.

    Attributes:
        end: the last step. drained: the last accumulator was read. stalled: waits for a bank of accumulators.
        asked, sent: the last burst's request, the last beat's departure from memory.
        pending: what it leaves in the reader.
    """

    end: int
    drained: int
    stalled: int
    asked: int
    sent: int
    pending: Pending


def flow(
    machine: Machine,
    shape: Shape,
    readers: list[Reader],
    pending: Pending,
    due: int,
    begin: int,
    blocked: Windows = ((),),
    takes: list[int] | None = None,
) -> Flow:
    """Walks a product whose weights may be asked for from ``due`` on and are taken from ``begin`` on, in the time of ``pending``.

    All ``readers`` run in lockstep; ``blocked``: of each, when other traffic has its bus. ``takes`` receives when beats are taken.
    """
    keep = takes is not None
    takes = [] if takes is None else takes
    takes += pending.takes
    left, page = shape.beats, shape.page
    burst, whole = machine.burst, 4096 // machine.beat_bytes
    run = due - 1
    take, pop, slots = begin - 1, FIRST, shape.slots
    in_word, scale, second = 0, shape.scale, False
    pairs, in_round, stalled, before, drained = shape.pairs, 0, 0, FIRST, FIRST  # pairs left; ends of the latest drains
    window = 0 if keep else shape.window(machine)
    marks: list[tuple[int, int, int]] = []  # at ends of windows: the last step, how long its beat was there, stalls
    while left:
        size = min(left, burst, page)
        ready = [reader.bring(size, due, takes, windows) for reader, windows in zip(readers, blocked, strict=True)]
        left, page = left - size, page - size or whole
        for at in ready[0] if len(ready) == 1 else map(max, zip(*ready, strict=True)):
            take = at + READABLE if at + READABLE > take else take + 1
            if scale:
                scale -= 1
            elif not second:
                second = True
            else:
                if pop > take:
                    take = pop
                second = False
                fire = take + 1
                if not in_round and fire <= before:
                    stalled += before + 1 - fire
                    fire = before + 1
                pop = fire + slots - 1
                pairs -= 1
                in_word += 1
                in_round += 1
                if in_word == shape.per_word:
                    in_word, scale = 0, shape.scale
                if in_round == shape.per_round:
                    in_round = 0
                    before, drained = drained, max(pop + shape.flight, drained) + (shape.drain if pairs else shape.last_drain)
                if window and not (shape.pairs - pairs) % window:
                    marks.append((pop, take - at - READABLE, stalled))
            takes.append(take)
        if len(marks) >= 3:
            (first, slack_1, stalls), (middle, slack_2, _), (last, slack_3, now_stalls) = marks[-3:]
            marks = marks[-2:]
            drift = (slack_3 - slack_1) / 2
            most = pairs // window - 1
            if drift < 0:
                most = min(most, int(slack_3 // -drift) - 2)
            elif drift > 0:
                most = min(most, int((machine.weight_fifo * slots / 2 - slack_3) // drift) - 2)
            even = abs(last - 2 * middle + first) <= 1 + (last - first) // 200 and abs(slack_3 - 2 * slack_2 + slack_1) <= 2
            if even and most > 0:
                later = most * (last - first) // 2
                arrivals = later - int(most * drift)
                stalled += most * (now_stalls - stalls) // 2
                pairs -= most * window
                left -= most * shape.beats_of(window)
                take, pop, before, drained = take + later, pop + later, before + later, drained + later
                takes = [time + later for time in takes[-machine.weight_fifo :]]
                for reader in readers:
                    reader.skip(arrivals, len(takes))
                marks = []
    reader = max(readers, key=lambda reader: reader.sent)
    ref, coarse = reader.asked, grain(machine)

    def behind(times: list[int], count: int) -> tuple[int, ...]:
        later = [time - ref for time in times[-count:] if time > ref]
        if len(later) > LONG:  # evenly spaced: what differs by no more is the same
            last, count = later[-1] // coarse * coarse, len(later) // coarse * coarse
            later = [last * number // count for number in range(1, count + 1)]
        return tuple(later)

    left_over = Pending(
        max(run - ref, -6),
        reader.accepted - ref,
        (reader.sent - ref) // coarse * coarse,
        reader.credit // COARSE * COARSE if reader.rate < UNIT else 2 * UNIT,
        behind(takes, machine.weight_fifo),
        behind(reader.pushes, machine.weight_fifo),
        behind(reader.finishes, reader.outstanding),
    )
    return Flow(pop - begin, drained - begin, stalled, ref - begin, reader.sent - begin, left_over)


def grain(machine: Machine) -> int:
    """Differences in time that are too small to matter where the FIFO is long."""
    return max(1, machine.weight_fifo // 64)


class Streams:
    """Flows of one machine, remembered."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.rates: dict[tuple[int, ...], tuple[float, float]] = {}
        self.flows: dict[tuple[object, ...], Flow] = {}

    def flow(
        self, shape: Shape, pending: Pending, due: int, begin: int, before: tuple[int, int], beside: Windows = ((),)
    ) -> Flow:
        """See :func:`flow`; the memory's refreshes are part of :meth:`rate`.

        ``before`` is when attention had the bus of all ports; ``beside`` when entries are written to each.
        """
        pending, _ = pending.settled(0, due)
        if pending is NOTHING:  # only what is to come matters
            begin, before = begin - due, (before[0] - due, before[1] - due)
            beside = tuple(tuple((first - due, last - due) for first, last in windows) for windows in beside)
            due = 0
        coarse, limit = 1, begin
        settled = begin
        if shape.beats > self.machine.weight_fifo:
            # Once the FIFO is full nothing changes until its beats are taken.
            coarse, limit = grain(self.machine), max([due, *pending.takes[-1:]]) + self.fill(self.rate(shape)[0])
            settled = min(begin, limit + max(0, before[1] - due)) // coarse * coarse

        def moved(window: tuple[int, int]) -> tuple[int, int]:
            by = settled - begin if window[1] > begin else 0
            return (window[0] + by) // coarse * coarse, (window[1] + by) // coarse * coarse

        own = [before] if due < before[1] and (before[0] < limit or before[1] > begin) else []
        blocked = tuple(tuple(map(moved, [*own, *windows])) for windows in beside)
        key = (shape, pending, due, settled, blocked)
        if key not in self.flows:
            rate, slow = self.rate(shape)
            readers = [Reader(self.machine, rate, pending) for _ in blocked]
            if pending is NOTHING:
                for reader in readers:
                    reader.sent = due + round(self.machine.memory.latency + wait_of_ports(self.machine, shape.ports))
            found = flow(self.machine, shape, readers, pending, due, settled, blocked)
            later = int((slow - 1) * max(0, found.end))
            times = {name: getattr(found, name) + later for name in ("end", "drained", "asked", "sent")}
            self.flows[key] = replace(found, **times) if later else found
        return self.flows[key]

    def fill(self, rate: float) -> int:
        """Cycles in which an empty FIFO is full, at most."""
        m, memory = self.machine, self.machine.memory
        loop = memory.latency + 8 + m.burst / rate
        under_way = min(memory.outstanding, (m.weights_in_flight or m.weight_fifo) // m.burst)
        return int(loop + -(-m.weight_fifo // m.burst) * max(m.burst / rate, memory.issue, loop / under_way))

    def rate(self, shape: Shape) -> tuple[float, float]:
        """How a memory without refreshes serves a long stream like this machine's: (beats per cycle, how much longer all takes).

        A stream that waits for the memory's latency does not see its rate: refreshes make it longer.
        """
        memory = self.machine.memory
        if not memory.refresh:
            return memory.moving, 1.0
        key = (shape.slots, shape.per_word, shape.scale, shape.ports)
        if key not in self.rates:
            real = self.sustained(shape, memory.moving, phases(self.machine, shape.ports))
            low, high = 0.5 * memory.rate, memory.moving
            if (even := self.sustained(shape, memory.rate, [None])) <= real:
                low, slow = memory.rate, 1.0
            elif self.sustained(shape, low, [None]) > real:
                low, high, slow = memory.rate, memory.rate, even / real
            else:
                slow = 1.0
                while high - low > 0.0005 * memory.moving:
                    middle = (low + high) / 2
                    low, high = (low, middle) if self.sustained(shape, middle, [None]) > real else (middle, high)
            self.rates[key] = low, slow
        return self.rates[key]

    def sustained(self, shape: Shape, rate: float, refreshes: list[int | None]) -> float:
        """Beats per cycle of a long stream."""
        machine = self.machine
        pairs = machine.weight_fifo + max(600, 2 * machine.memory.refresh_interval)
        takes: list[int] = []
        shape = replace(shape, pairs=pairs, per_round=pairs, page=1 << 30)
        readers = [Reader(machine, rate, NOTHING, phase) for phase in refreshes]
        flow(machine, shape, readers, NOTHING, 0, 0, ((),) * len(readers), takes)
        return pace(takes, machine.memory.refresh_interval)


def pace(times: Sequence[int], interval: int) -> float:
    """Events per cycle in the later half of ``times``, over whole intervals of refreshes."""
    last, span = times[-1], times[-1] - times[len(times) // 2]
    if interval:
        span = max(1, span // interval) * interval
    before = bisect.bisect_right(times, last - span) - 1
    if before < 0:
        return (len(times) - 1) / (last - times[0])
    part = (last - span - times[before]) / (times[before + 1] - times[before])
    return (len(times) - 1 - before - part) / span


def wait_of_ports(machine: Machine, ports: int) -> float:
    """Mean cycles that a read of the first ``ports`` at any time waits for the last of the refreshes that it meets."""
    memory = machine.memory
    if memory.refresh_together or not memory.refresh:
        return memory.refresh_wait
    spacing = memory.refresh_interval / machine.ports
    if spacing >= memory.refresh:
        return ports * memory.refresh_wait
    between = spacing * (memory.refresh - spacing / 2) / memory.refresh_interval  # until the next port's refresh begins
    return (ports - 1) * between + (between if ports == machine.ports else memory.refresh_wait)


def phases(machine: Machine, ports: int) -> list[int | None]:
    """When refreshes of the first ``ports`` begin, which run in lockstep; None: no port has any."""
    memory = machine.memory
    if not memory.refresh:
        return [None]
    if memory.refresh_together:
        return [0]
    return [port * memory.refresh_interval // machine.ports for port in range(ports)]
