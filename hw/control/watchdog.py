"""Notices that a run goes nowhere."""

from __future__ import annotations

from amaranth.hdl import Module, Signal

from hw.arithmetic.pipeline import registered
from hw.component import Component, given, gives
from hw.control.issue import UNITS

MOVES = 2 * UNITS  # streams of instructions to the queues and back


class Watchdog(Component):
    """Counts cycles of a run in which nothing moves.

    Latency: ``cycles`` + 3 from the last one in which something moved to ``silent``, which stays until something does or the run is over.
    Throughput: a cycle per cycle.

    Parameters:
        cycles: how long is too long, a power of two; see :data:`skipopu.machine.limits.WATCHDOG_CYCLES`.
        places: where something may move.
    """

    def __init__(self, cycles: int, places: int) -> None:
        assert cycles.bit_count() == 1
        self.cycles = cycles
        self.running = given(1, "there is a run")
        self.moves = given(places, "where a beat comes or goes, an instruction is handed over or retired")
        self.silent = gives(1, "nothing has moved for too long")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        moved, count = Signal(), Signal(self.cycles.bit_length())
        m.d.comb += self.silent.eq(count[-1])
        # Beats come from every port of a chip: their registers can stand near them.
        m.d.sync += moved.eq(registered(m, self.moves, "moves_here").any())
        with m.If(moved | ~self.running):
            m.d.sync += count.eq(0)
        with m.Elif(~self.silent):
            m.d.sync += count.eq(count + 1)
        return m
