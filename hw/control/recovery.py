"""How the machine starts behind an error."""

from __future__ import annotations

from amaranth.hdl import Module, Signal

from hw.component import Component, given, gives
from hw.control.host import RESET_CYCLES


class Recovery(Component):
    """Resets everything but the host's registers before a start behind an error: that is the state in which every unit works.

    Until that start the error and what was counted can be read. Nothing is reset while memory owes answers, which would be taken for the
    next run's.

    Latency: none from ``asked`` to ``start`` without an error, :data:`hw.control.host.RESET_CYCLES` + 2 cycles behind one.
    Throughput: a start per cycle.
    """

    def __init__(self) -> None:
        self.asked = given(1, "the host asks for a run, for a cycle")
        self.failed = given(1, "there was an error")
        self.running = given(1, "a run is under way, or memory will give it answers")
        self.ports_quiet = given(1, "memory owes no answer")
        self.start = gives(1, "a run starts where none is under way, for a cycle")
        self.reset = gives(1, "of everything but the host's registers, from the next cycle on")
        self.busy = gives(1, "a start is on its way")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The top bit is the reset; ``held`` is, behind power-on, what the register is that gives it to everything (:mod:`hw.overlay`).
        count, held, ended = Signal(RESET_CYCLES.bit_length()), Signal(), Signal()
        m.d.comb += [
            self.reset.eq(count[-1]),
            self.busy.eq(self.asked | self.reset | held | ended),
            self.start.eq((self.asked & ~self.failed) | (ended & ~held)),
        ]
        m.d.sync += [held.eq(self.reset), ended.eq(held)]
        with m.If(self.reset):
            m.d.sync += count.eq(count + 1)
        with m.Elif(self.asked & self.failed & ~self.running & self.ports_quiet):
            m.d.sync += count.eq(RESET_CYCLES)
        return m
