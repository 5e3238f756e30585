"""The streams of weights of one machine: products' flows, remembered."""

from __future__ import annotations

from sim.timing import masked
from sim.timing.flow import Flow, grain
from sim.timing.masked import Masked
from sim.timing.product import Weights
from sim.timing.reader import NOTHING, Pending, Reader, Windows
from sim.timing.refresh import pace, phases, wait_of_ports
from skipopu.machine.config import Machine


class Streams:
    """Flows of one machine, remembered."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.rates: dict[tuple[object, ...], tuple[float, float]] = {}
        self.flows: dict[tuple[object, ...], Flow] = {}

    def flow(
        self, shape: Weights, pending: Pending, due: int, begin: int, before: tuple[int, int], beside: Windows = ((),)
    ) -> Flow:
        """See :func:`sim.timing.flow.flow`; the memory's refreshes are part of :meth:`rate`.

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
            disturbed = max(sum(max(0, min(last, begin) - max(first, due)) for first, last in windows) for windows in beside)
            settled = min(begin, limit + max(0, before[1] - due) + disturbed) // coarse * coarse

        def moved(window: tuple[int, int]) -> tuple[int, int]:
            if window[1] <= begin:  # what comes to a full FIFO delays nothing
                first, last = min(window[0], settled), min(window[1], settled)
            else:
                first, last = (time + settled - begin for time in window)
            return first // coarse * coarse, last // coarse * coarse

        own = [before] if due < before[1] and (before[0] < limit or before[1] > begin) else []
        blocked = tuple(tuple(map(moved, [*own, *windows])) for windows in beside)
        key = (shape, pending, due, settled, blocked)
        if key not in self.flows:
            rate, slow = self.rate(shape)
            readers = [Reader(self.machine, rate, pending) for _ in blocked]
            if pending is NOTHING:
                for reader in readers:
                    reader.sent = due + round(self.machine.memory.latency + wait_of_ports(self.machine, shape.ports))
            found = shape.flow(self.machine, readers, pending, due, settled, blocked)
            self.flows[key] = found.later(int((slow - 1) * max(0, found.end)))
        return self.flows[key]

    def masked(
        self, product: Masked, pending: Pending, due: int, begin: int, before: tuple[int, int], beside: Windows = ((),)
    ) -> Flow:
        """As :meth:`flow`, of a product with thresholds; see :func:`sim.timing.masked.flow`."""
        pending, _ = pending.settled(0, due)
        if pending is NOTHING:
            begin, before = begin - due, (before[0] - due, before[1] - due)
            beside = tuple(tuple((first - due, last - due) for first, last in windows) for windows in beside)
            due = 0
        own = [before] if due < before[1] else []
        blocked = tuple((*own, *windows) for windows in beside)
        key = (product, pending, due, begin, blocked)
        if key not in self.flows:
            rate, slow = self.rate(product.tiles)
            readers = [Reader(self.machine, rate, pending) for _ in blocked]
            if pending is NOTHING:
                for reader in readers:
                    reader.sent = due + round(self.machine.memory.latency + wait_of_ports(self.machine, product.tiles.ports))
            found = masked.flow(self.machine, product, readers, pending, due, begin, blocked)
            self.flows[key] = found.later(int((slow - 1) * max(0, found.end)))
        return self.flows[key]

    def fill(self, rate: float) -> int:
        """Cycles in which an empty FIFO is full, at most."""
        m, memory = self.machine, self.machine.memory
        loop = memory.latency + 8 + m.burst / rate
        under_way = min(memory.outstanding, (m.weights_in_flight or m.weight_fifo) // m.burst)
        return int(loop + -(-m.weight_fifo // m.burst) * max(m.burst / rate, memory.issue, loop / under_way))

    def rate(self, shape: Weights) -> tuple[float, float]:
        """How a memory without refreshes serves a long stream like this machine's: (beats per cycle, how much longer all takes).

        A stream that waits for the memory's latency does not see its rate: refreshes make it longer.
        """
        memory = self.machine.memory
        if not memory.refresh:
            return memory.moving, 1.0
        key = shape.kind
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

    def sustained(self, shape: Weights, rate: float, refreshes: list[int | None]) -> float:
        """Beats per cycle of a long stream."""
        machine = self.machine
        endless = shape.endless(machine.weight_fifo + max(600, 2 * machine.memory.refresh_interval))
        takes: list[int] = []
        readers = [Reader(machine, rate, NOTHING, phase) for phase in refreshes]
        endless.flow(machine, readers, NOTHING, 0, 0, ((),) * len(readers), takes)
        return pace(takes, machine.memory.refresh_interval)
