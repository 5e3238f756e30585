"""The weights of one product on their way through a port and the array: ``hw/pe/sequencer.py``."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sim.timing.reader import FIRST, READABLE, UNIT, Pending, Reader, Windows
from skipopu.machine.config import Machine

LONG = 32  # times that are remembered one by one
COARSE = 256  # what is remembered of a rate's credit from product to product


@dataclass(frozen=True)
class Shape:
    """A product's weights in the fullest port.

    Attributes:
        steps: of each pair of beats: tokens that it is multiplied with, times groups side by side in it.
        pairs: pairs of beats. per_word: pairs behind each scale word of scale beats. per_round: pairs of a round.
        page: beats from the first one to the next page of memory.
        flight: cycles from a round's last step until it is drained, which takes drain, the last one last_drain.
        ports: how many have weights of it.
    """

    steps: int
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

    @property
    def array_steps(self) -> int:
        """Of all pairs."""
        return self.pairs * self.steps

    @property
    def kind(self) -> tuple[int, ...]:
        """What the pace of a long stream depends on."""
        return self.steps, self.per_word, self.scale, self.ports

    def endless(self, pairs: int) -> Shape:
        """A long stream of this kind, of one round."""
        return replace(self, pairs=pairs, per_round=pairs, page=1 << 30)

    def window(self, machine: Machine) -> int:
        """Pairs after which everything may repeat: whole rounds and scale words, all bursts that may be under way, twice."""
        unit = math.lcm(self.per_round, self.per_word)
        return -(-under_way(machine) // unit) * unit

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


@dataclass(frozen=True)
class Flow:
    """What one product's stream did, in cycles behind the first in which a beat could be taken.

    Attributes:
        end: the last step. drained: the last accumulator was read. stalled: waits for a bank of accumulators.
        asked, sent: the last burst's request, the last beat's departure from memory.
        pending: what it leaves in the reader.
        held: waits for sums that were not taken out yet.
    """

    end: int
    drained: int
    stalled: int
    asked: int
    sent: int
    pending: Pending
    held: int = 0

    def later(self, cycles: int) -> Flow:
        """The same, all of it done ``cycles`` later."""
        end, drained, asked, sent = (time + cycles for time in (self.end, self.drained, self.asked, self.sent))
        return replace(self, end=end, drained=drained, asked=asked, sent=sent)


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
    take, pop, steps = begin - 1, FIRST, shape.steps
    in_word, scale, second = 0, shape.scale, False
    pairs, in_round, stalled, before, drained = shape.pairs, 0, 0, FIRST, FIRST  # pairs left; ends of the latest drains
    window = 0 if keep else shape.window(machine)
    marks: list[tuple[int, int, int]] = []  # at ends of windows: the last step, how long its beat was there, stalls
    undisturbed = max((end for windows in blocked for _, end in windows), default=due)  # nothing repeats before
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
                pop = fire + steps - 1
                pairs -= 1
                in_word += 1
                in_round += 1
                if in_word == shape.per_word:
                    in_word, scale = 0, shape.scale
                if in_round == shape.per_round:
                    in_round = 0
                    before, drained = drained, max(pop + shape.flight, drained) + (shape.drain if pairs else shape.last_drain)
                if window and pop >= undisturbed and not (shape.pairs - pairs) % window:
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
                most = min(most, int((machine.weight_fifo * steps / 2 - slack_3) // drift) - 2)
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
    return ended(machine, readers, run, takes, begin, (pop, drained, stalled))


def ended(
    machine: Machine, readers: list[Reader], run: int, takes: list[int], begin: int, end: tuple[int, int, int], held: int = 0
) -> Flow:
    """A stream of which beats were taken from ``begin`` on, at ``takes``; its last run was accepted at ``run``.

    ``end``: the last step, the last drain, waits for a bank.
    """
    reader = max(readers, key=lambda reader: reader.sent)
    ref, coarse = reader.asked, grain(machine)

    def behind(times: list[int], count: int) -> tuple[int, ...]:
        later = [time - ref for time in times[-count:] if time > ref]
        if len(later) > LONG:  # evenly spaced: what differs by no more is the same
            last, count = later[-1] // coarse * coarse, len(later) // coarse * coarse
            later = [last * number // count for number in range(1, count + 1)]
        return tuple(later)

    pending = Pending(
        max(run - ref, -6),
        reader.accepted - ref,
        (reader.sent - ref) // coarse * coarse,
        reader.credit // COARSE * COARSE if reader.rate < UNIT else 2 * UNIT,
        behind(takes, machine.weight_fifo),
        behind(reader.pushes, machine.weight_fifo),
        behind(reader.finishes, reader.outstanding),
    )
    last, drained, stalled = end
    return Flow(last - begin, drained - begin, stalled, ref - begin, reader.sent - begin, pending, held)


def under_way(machine: Machine) -> int:
    """Bursts that may be under way, in beats, at least two."""
    memory = machine.memory
    loop = min(machine.weights_in_flight or machine.weight_fifo, memory.outstanding * machine.burst, memory.latency)
    return max(loop, 2 * machine.burst)


def grain(machine: Machine) -> int:
    """Differences in time that are too small to matter where the FIFO is long."""
    return max(1, machine.weight_fifo // 64)
