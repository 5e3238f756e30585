"""How a run goes and ends."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal

from hw.arithmetic.pipeline import delay, delay_valid
from hw.component import Component, given, gives
from skipopu.isa.registers import ERROR_BITS, STATUS_DONE, STATUS_ERROR, STATUS_OWED, STATUS_RUNNING, STATUS_SATURATED
from skipopu.isa.spec import PC_BITS


class RunStatus(Component):
    """Keeps the status and the first error; of two in the same cycle a unit's counts. An error stays until a reset.

    Latency: 1 cycle from an event to what it changes. Throughput: an event of each kind per cycle.
    """

    def __init__(self) -> None:
        self.restart = given(1, "a run starts, for a cycle")
        self.clear = given(1, "the host clears the status")
        self.finish = given(1, "the run is done, for a cycle")
        self.saturated = given(1, "a unit saturated a number")
        self.fail = given(1, "the dispatcher's error")
        self.fail_code = given(ERROR_BITS, "which it is")
        self.fail_pc = given(PC_BITS + 1, "at which instruction")
        self.fault = given(1, "a unit's error; counts in a run only")
        self.fault_code = given(ERROR_BITS, "which it is")
        self.fault_pc = given(PC_BITS, "at which instruction")
        self.ports_quiet = given(1, "memory owes no answer")
        self.silent = given(1, "memory will give none")
        self.running = gives(1, "a run is under way, or memory will give it answers")
        self.failed = gives(1, "there was an error")
        self.status = gives(32, "bits of the status register")
        self.error = gives(32, "code of the error")
        self.error_pc = gives(32, "its instruction")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        done, sticky, kept = Signal(), Signal(), Signal()
        # The dispatcher's error comes late in a cycle: it counts from the next one on, in which it is kept.
        failing = delay_valid(m, self.fail, 1, "failing")
        code, pc = delay(m, self.fail_code, 1, "fail_code"), delay(m, self.fail_pc, 1, "fail_pc")
        m.d.comb += self.failed.eq(kept | failing)
        owed = delay_valid(m, ~self.ports_quiet, 1, "owed")  # beside ``running``, which falls a cycle behind quiet ports too
        m.d.comb += self.status.eq(
            Mux(self.running, STATUS_RUNNING, 0)
            | Mux(done, STATUS_DONE, 0)
            | Mux(self.failed & ~self.running, STATUS_ERROR, 0)
            | Mux(sticky, STATUS_SATURATED, 0)
            | Mux(self.running | ~owed, 0, STATUS_OWED)
        )
        with m.If(self.saturated & self.running):
            m.d.sync += sticky.eq(1)
        with m.If(self.clear | self.restart):
            m.d.sync += [done.eq(0), sticky.eq(0)]
        with m.If(self.restart):
            m.d.sync += [self.running.eq(1), self.error.eq(0)]
        with m.If(self.finish):
            m.d.sync += [self.running.eq(0), done.eq(1)]
        with m.If(self.fault & self.running & ~self.failed):
            m.d.sync += [kept.eq(1), self.error.eq(self.fault_code), self.error_pc.eq(self.fault_pc)]
        with m.Elif(failing & ~kept):
            m.d.sync += [kept.eq(1), self.error.eq(code), self.error_pc.eq(pc)]
        with m.If(self.failed & (self.ports_quiet | self.silent)):
            m.d.sync += self.running.eq(0)
        return m
