"""The multipliers' two users: products of weights, and attention."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal

from hw.arithmetic.pipeline import delay
from hw.component import Component, given, gives
from skipopu.machine.config import Machine
from skipopu.numerics.align import ALIGNED_BITS


class Sharing(Component):
    """One of array and attention at a time, the array first; whoever has begun goes on to its end.

    Latency: none to ``array_active`` and ``attention_active``, 2 cycles to ``operands``, which attention has from the cycle after its
    first one. Throughput: a set of operands per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        bits = ALIGNED_BITS * machine.weight_lanes
        self.array = given(1, "the array has an instruction to run")
        self.attention = given(1, "attention has one")
        self.attended = given(1, "attention is done with it, for a cycle")
        self.activations = given(bits, "operands of the array's step")
        self.queries = given(bits, "operands of attention's step")
        self.array_active = gives(1, "the array runs")
        self.attention_active = gives(1, "attention runs")
        self.operands = gives(bits, "to every slice: of whoever has the multipliers, two cycles later")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        attending = Signal()
        m.d.comb += [
            self.array_active.eq(self.array & ~attending),
            self.attention_active.eq(self.attention & (attending | ~self.array)),
        ]
        with m.If(self.attended):
            m.d.sync += attending.eq(0)
        with m.Elif(self.attention_active):
            m.d.sync += attending.eq(1)
        m.d.comb += self.operands.eq(delay(m, Mux(attending, self.queries, self.activations), 2, "held"))
        return m
