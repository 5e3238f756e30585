"""What one port asked for ahead of its instruction and did not get yet."""

from __future__ import annotations

from amaranth.hdl import Module, Signal

from hw.component import Component, given, gives
from hw.kv.history import Half
from hw.kv.order import CHOSEN
from hw.kv.request import Entry
from skipopu.machine.config import ENTRIES_AHEAD, Machine


class AheadEntries(Component):
    """Says whether a half that the history buffer's tags name is in it already.

    A layer's slots are filled in rising order: those below the last one that came are there, unless an earlier layer's still come.
    Two layers may begin with the same slot, whose keys tell that the second one began.

    Latency: none from ``asked`` to ``there``, 1 cycle from an entry to what it changes. Throughput: per cycle an entry taken, one
    dropped, one that came, and an answer.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        half = Half(machine)
        self.taken = given(1, "an entry is taken")
        self.entry = given(Entry(machine), "that entry; it counts if it is wanted ahead")
        self.dropped = given(1, "an entry wanted ahead is dropped")
        self.came = given(1, "the last beat of one came")
        self.came_half = given(half, "which half of which slot that was")
        self.asked = given(half, "half that an instruction wants")
        self.there = gives(1, "that half is there, if it is held at all")
        self.none = gives(1, "nothing is on its way")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count, slot = Signal(range(ENTRIES_AHEAD + CHOSEN + 2)), self.entry.half.slot
        filled, latest, mixed, taken = Signal.like(slot), Signal.like(slot), Signal(), Signal()
        again = (slot < latest) | ((slot == latest) & ~self.entry.half.values)
        m.d.comb += [
            taken.eq(self.taken & self.entry.ahead),
            self.none.eq(count == 0),
            self.there.eq(self.none | (~mixed & (self.asked.slot < filled))),
        ]
        m.d.sync += count.eq(count + taken - self.dropped - self.came)
        with m.If(taken):
            m.d.sync += [latest.eq(slot), mixed.eq(~self.none & (mixed | again))]
        with m.If(taken & self.none):
            m.d.sync += filled.eq(slot)
        with m.Elif(self.came & self.came_half.values):
            m.d.sync += filled.eq(self.came_half.slot + 1)
        return m
