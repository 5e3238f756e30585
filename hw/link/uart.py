"""Serial line, 8N1, with a rate that may change while it runs."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream
from amaranth.lib.cdc import FFSynchronizer

from hw.component import Component, given, gives
from skipopu.link import BREAK

DIVISOR_BITS = 16
FRAME_BITS = 10  # start, eight data bits, stop


class UartReceiver(Component):
    """Bytes from a line. Each bit is sampled in its middle; a byte without a stop bit is dropped.

    A byte that comes while the last one still waits replaces nothing: it is lost.

    Latency: half a bit behind the stop bit's start, and 3 cycles. Throughput: the line's.
    """

    def __init__(self) -> None:
        self.line = given(1, "the line: asynchronous, idle high")
        self.divisor = given(DIVISOR_BITS, "cycles per bit, at least 4")
        self.bytes = gives(stream.Signature(8), "bytes that came")
        self.broken = gives(1, "the line has been low for :data:`skipopu.link.BREAK` cycles")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.line, line, init=1)
        timer, left = Signal(DIVISOR_BITS), Signal(range(FRAME_BITS + 1))
        shift = Signal(FRAME_BITS - 1)  # eight data bits above the start bit, when all but the stop bit came
        with m.If(self.bytes.ready):
            m.d.sync += self.bytes.valid.eq(0)
        with m.If(left == 0):
            m.d.sync += timer.eq(self.divisor >> 1)
            with m.If(~line):
                m.d.sync += left.eq(FRAME_BITS)
        with m.Elif(timer > 1):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self.divisor), left.eq(left - 1), shift.eq(Cat(shift[1:], line))]
            with m.If((left == FRAME_BITS) & line):  # no start bit, a disturbance
                m.d.sync += left.eq(0)
            with m.If((left == 1) & line & (self.bytes.ready | ~self.bytes.valid)):
                m.d.sync += [self.bytes.payload.eq(shift[1:]), self.bytes.valid.eq(1)]
        low = Signal(range(BREAK + 1))
        m.d.comb += self.broken.eq(low == BREAK)
        with m.If(line):
            m.d.sync += low.eq(0)
        with m.Elif(~self.broken):
            m.d.sync += low.eq(low + 1)
        return m


class UartTransmitter(Component):
    """Bytes to a line.

    Latency: 1 cycle from a byte to its start bit. Throughput: a byte per ten bits and a cycle.
    """

    def __init__(self) -> None:
        self.line = gives(1, "the line: registered, idle high", init=1)
        self.divisor = given(DIVISOR_BITS, "cycles per bit")
        self.bytes = given(stream.Signature(8), "bytes to send")
        self.idle = gives(1, "nothing is under way")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer, left = Signal(DIVISOR_BITS), Signal(range(FRAME_BITS + 1))
        shift = Signal(FRAME_BITS)
        m.d.comb += [self.bytes.ready.eq(left == 0), self.idle.eq((left == 0) & ~self.bytes.valid)]
        with m.If(left == 0):
            m.d.sync += self.line.eq(1)
            with m.If(self.bytes.valid):
                m.d.sync += [
                    self.line.eq(0),
                    shift.eq(Cat(self.bytes.payload, Const(3, 2))),  # the stop bit, and the idle line behind it
                    timer.eq(self.divisor),
                    left.eq(FRAME_BITS),
                ]
        with m.Elif(timer > 1):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [
                timer.eq(self.divisor),
                left.eq(left - 1),
                self.line.eq(shift[0]),
                shift.eq(Cat(shift[1:], Const(1, 1))),
            ]
        return m
