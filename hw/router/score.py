"""The router's score of a module."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal

from hw.arithmetic.fp32 import Add
from hw.component import Component, given, gives
from hw.memory.buffer import lane_of
from hw.widths import ELEMENT_BITS
from skipopu.machine.config import Machine


class Score(Component):
    """Adds what a router product has left in the buffer, high digit and low digit, and a bias: z = (high + low) + bias, FP32.

    Or two other numbers and the bias, in as many cycles.

    Latency: LATENCY cycles from ``start`` to ``done``. Throughput: one score at a time.
    """

    LATENCY = 3 + 2 * (Add.LATENCY + 2)

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.start = given(1, "begin, for a cycle; not before done")
        self.address = given(ELEMENT_BITS, "element of the high digit, the low one's is the next; stable until done")
        self.bias = given(32, "FP32; stable until done")
        self.instead = given(1, "two other numbers are wanted; stable until done")
        self.numbers = given(64, "those, FP32, the first one in the lower half; stable until done")
        self.done = gives(1, "the score is there, for a cycle")
        self.z = gives(32, "the score, with done")
        self.saturated = gives(1, "a sum saturated")
        self.read_address = gives(ELEMENT_BITS, "element of the buffer to read")
        self.read_enable = gives(1, "read it now")
        self.read_data = given(32 * machine.vector_lanes, "the word that holds it, a cycle later")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.add = add = Add()
        low = Signal()
        digit = self.read_data.word_select(lane_of(self.machine, self.read_address), 32)
        chosen = Mux(self.instead, self.numbers.word_select(low, 32), digit)
        # One addition at a time
        begin, left = Signal(), Signal(range(Add.LATENCY + 2))
        high, a, b = Signal(32), Signal(32), Signal(32)
        with m.If(begin):
            m.d.sync += [add.a.eq(a), add.b.eq(b), left.eq(1 + Add.LATENCY)]
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.If(left == 1):
            m.d.sync += self.z.eq(add.z)
        m.d.comb += [
            add.valid.eq(1),
            self.saturated.eq((left == 1) & add.saturated),
            self.read_address.eq(self.address + low),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.read_enable.eq(self.start)
                with m.If(self.start):
                    m.next = "HIGH"
            with m.State("HIGH"):
                m.d.sync += [high.eq(chosen), low.eq(1)]
                m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.read_enable.eq(1)
                m.next = "LOW"
            with m.State("LOW"):
                m.d.comb += [a.eq(high), b.eq(chosen), begin.eq(1)]
                m.d.sync += low.eq(0)
                m.next = "BIAS"
            with m.State("BIAS"):
                with m.If(left == 0):
                    m.d.comb += [a.eq(self.z), b.eq(self.bias), begin.eq(1)]
                    m.next = "SCORE"
            with m.State("SCORE"):
                with m.If(left == 0):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
        return m
