"""The queue in front of each unit, which honours dependence tokens."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream
from amaranth.lib.fifo import SyncFIFOBuffered

from hw.component import Component, given, gives, level
from hw.control.issue import UNITS, Issue, Record, field
from skipopu.isa.spec import ALIGN, PC_BITS
from skipopu.machine.config import QUEUE_DEPTH, Machine


class UnitQueue(Component):
    """Queue of one unit: starts its head once every dependence token it pops is there, retires it when the unit is done.

    An instruction marked empty is retired without starting the unit.

    Latency: 3 cycles from ``issue`` to ``active`` where the tokens are there, 1 from ``done`` to ``retired``. Throughput: 2 cycles per
    instruction beside those in which the unit runs it.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.issue = given(stream.Signature(Issue(machine)), "instructions for the unit")
        self.next = gives(1, "the head is no empty instruction, and waits to become active")
        self.active = gives(1, "the unit runs the head")
        self.instruction = gives(Issue(machine), "the head; stable while next or active")
        self.done = given(1, "the unit has run it, for a cycle")
        self.digest = given(32, "signature of what it wrote, with done")
        self.tokens = given(UNITS, "units of which a dependence token is there")
        self.take = gives(UNITS, "units of which the head takes one, for a cycle")
        self.give = gives(UNITS, "units that are given one, for a cycle")
        self.retired = gives(stream.Signature(Record()), "instructions that ran, or were empty")
        self.pc = gives(PC_BITS, "index of the head")
        self.idle = gives(1, "nothing is inside")
        self.waiting = gives(1, "the head lacks a token")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        layout = Issue(self.machine)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=layout.size, depth=QUEUE_DEPTH)
        head = layout(fifo.r_data)
        # pop and push stand at the same place in every instruction of a unit.
        pop, push = field(head.word, ALIGN, "pop"), field(head.word, ALIGN, "push")
        m.d.comb += [
            fifo.w_data.eq(self.issue.payload),
            fifo.w_en.eq(self.issue.valid),
            self.issue.ready.eq(fifo.w_rdy),
            self.instruction.eq(head),
            self.pc.eq(head.pc),
            self.retired.payload.sequence.eq(head.sequence),
            self.retired.payload.pc.eq(head.pc),
        ]
        total = Signal(32)
        m.d.comb += self.retired.payload.signature.eq(total)
        with m.FSM():
            with m.State("WAIT"):
                m.d.comb += [self.idle.eq(level(fifo) == 0), self.next.eq(fifo.r_rdy & ~head.empty)]
                m.d.comb += self.waiting.eq(fifo.r_rdy & ((pop & ~self.tokens) != 0))
                with m.If(fifo.r_rdy & ((pop & ~self.tokens) == 0)):
                    m.d.comb += self.take.eq(pop)
                    m.d.sync += total.eq(0)
                    with m.If(head.empty):
                        m.next = "RETIRE"
                    with m.Else():
                        m.next = "ACTIVE"
            with m.State("ACTIVE"):
                m.d.comb += self.active.eq(1)
                with m.If(self.done):
                    m.d.sync += total.eq(self.digest)
                    m.next = "RETIRE"
            with m.State("RETIRE"):
                m.d.comb += self.retired.valid.eq(1)
                with m.If(self.retired.ready):
                    m.d.comb += [self.give.eq(push), fifo.r_en.eq(1)]
                    m.next = "WAIT"
        return m
