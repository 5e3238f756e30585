"""Write side of a memory port."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream

from hw.arithmetic.pipeline import delay_valid
from hw.component import Bundle, Component, given, gives
from hw.memory.axi import BURST_INCR, AxiWrite
from hw.memory.reader import Run
from skipopu.machine import pipeline
from skipopu.machine.config import Machine

WRITE_CLIENTS = 2
VECTOR, CONTROL = range(WRITE_CLIENTS)  # rising priority


class WriteBeat(data.StructLayout):
    """One beat of write data with its byte strobes."""

    def __init__(self, machine: Machine) -> None:
        super().__init__({"data": machine.port_bits, "strobe": machine.beat_bytes})


class Writes(Bundle):
    """Writes to one port's memory, seen by who writes."""

    def __init__(self, machine: Machine) -> None:
        self.runs = gives(stream.Signature(Run(machine)), "where to write")
        self.beats = gives(stream.Signature(WriteBeat(machine)), "what to write there")
        super().__init__()


class WritePort(Component):
    """Writes runs of beats, one burst outstanding; two clients, client 1 first.

    Latency: 1 cycle from a run to ``awvalid``, none from a client's beat to ``wvalid``, 1 to ``beat``; a run is done when the response
    to its last burst arrived, so that what it wrote can be read; pipeline.apart from ``stop`` and to ``quiet`` and ``error``. Throughput:
    a beat per cycle inside a burst.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        clients = range(WRITE_CLIENTS)
        self.axi = gives(AxiWrite(machine.port_bits), "write channels of the AXI4 master", "{}")
        self.runs = [given(stream.Signature(Run(machine)), f"where client {k} writes") for k in clients]
        self.beats = [given(stream.Signature(WriteBeat(machine)), f"what client {k} writes") for k in clients]
        self.done = [gives(1, f"client {k}'s run is done, for a cycle") for k in clients]
        self.stop = given(
            1, "no more bursts, pipeline.apart cycles from now on; the one under way ends without data that does not come"
        )
        self.quiet = gives(1, "no burst was under way, pipeline.apart cycles ago")
        self.error = gives(1, "a response was not OKAY, had another ID, or there was nothing to respond to")
        self.error_client = gives(1, "whose burst it was, or whose was the last one")
        self.beat = gives(1, "one data beat was taken, a cycle ago")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        beat_bits = (machine.beat_bytes - 1).bit_length()
        client, filling, responding, quiet = Signal(), Signal(), Signal(), Signal()
        apart = pipeline.apart(machine)
        stop = delay_valid(m, self.stop, apart, "stop")
        m.d.comb += self.quiet.eq(delay_valid(m, quiet, apart, "quiet"))
        error = Signal()
        giving = Signal(WRITE_CLIENTS)  # whose beats go to the bus: no state has to be looked at for a beat to be taken
        beat, left = (Signal(Run(machine)[name].shape, name=name) for name in ("beat", "count"))
        page = 4096 // machine.beat_bytes
        to_page = Signal(range(page + 1))
        most = machine.longest_write
        size, remaining, last, over = Signal(range(most + 1)), Signal(range(most + 1)), Signal(), Signal()
        m.d.comb += to_page.eq(page - beat[: page.bit_length() - 1])
        limit = Mux(to_page < most, to_page, most)
        m.d.comb += [last.eq(left <= limit), size.eq(Mux(last, left, limit))]
        m.d.comb += [
            self.axi.awaddr.eq(Cat(Const(0, beat_bits), beat)),
            self.axi.awlen.eq(size - 1),
            self.axi.awsize.eq(beat_bits),
            self.axi.awburst.eq(BURST_INCR),
            self.axi.wlast.eq(remaining == 1),
            self.axi.wvalid.eq(Cat(beats.valid & here for beats, here in zip(self.beats, giving, strict=True)).any() | filling),
            self.axi.bready.eq(1),
            self.error.eq(delay_valid(m, error, apart, "error")),
            self.error_client.eq(delay_valid(m, client, apart, "error_client")),
        ]
        m.d.comb += error.eq(self.axi.bvalid & (~responding | (self.axi.bresp != 0) | (self.axi.bid != self.axi.awid)))
        sent = self.axi.wvalid & self.axi.wready
        m.d.sync += self.beat.eq(sent)
        for beats, here in zip(self.beats, giving, strict=True):
            m.d.comb += beats.ready.eq(self.axi.wready & here)
            with m.If(here):
                m.d.comb += [self.axi.wdata.eq(beats.payload.data), self.axi.wstrb.eq(beats.payload.strobe)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += quiet.eq(1)
                for k, runs in enumerate(self.runs):
                    m.d.comb += runs.ready.eq(~stop & (1 if k else ~self.runs[1].valid))
                    with m.If(runs.valid & runs.ready):
                        m.d.sync += [client.eq(k), beat.eq(runs.payload.beat), left.eq(runs.payload.count)]
                        m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.comb += self.axi.awvalid.eq(1)
                with m.If(self.axi.awready):
                    m.d.sync += [remaining.eq(size), left.eq(left - size), beat.eq(beat + size), over.eq(last)]
                    m.d.sync += giving.eq(1 << client)
                    m.next = "DATA"
            with m.State("DATA"):
                # What is shown on the bus stands until it is taken.
                with m.If(stop & ~self.axi.wvalid):
                    m.d.sync += [filling.eq(1), giving.eq(0)]
                with m.If(sent):
                    m.d.sync += remaining.eq(remaining - 1)
                    with m.If(remaining == 1):
                        m.d.sync += [filling.eq(0), giving.eq(0)]
                        m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += responding.eq(1)
                with m.If(self.axi.bvalid):
                    with m.If(over):
                        m.d.comb += [self.done[0].eq(client == 0), self.done[1].eq(client == 1)]
                        m.next = "IDLE"
                    with m.Elif(stop):
                        m.next = "IDLE"
                    with m.Else():
                        m.next = "ADDRESS"
        return m
