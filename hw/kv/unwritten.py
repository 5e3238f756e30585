"""Whether entries are still to be written that attention will read."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed

from hw.component import Component, given, gives
from hw.control.issue import ENTRY_BITS


class Unwritten(Component):
    """Attention waits by itself for the entries of every KVWRITE dispatched before it.

    Latency: 1 cycle from ``before``, 2 from a KVWRITE's end. Throughput: a KVWRITE per cycle.
    """

    def __init__(self) -> None:
        self.restart = given(1, "a run begins")
        self.written = given(1, "a KVWRITE is done, for a cycle")
        self.before = given(ENTRY_BITS, "KVWRITEs dispatched before the present ATTEND, modulo")
        self.unwritten = gives(1, "not all of them are done")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        done, left = Signal(ENTRY_BITS), Signal(signed(ENTRY_BITS))
        m.d.sync += done.eq(Mux(self.restart, 0, done + self.written))
        m.d.comb += left.eq(self.before - done)
        m.d.sync += self.unwritten.eq(left > 0)
        return m
