"""Write side of a memory port."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out

from hw.memory.axi import BURST_INCR, axi4
from hw.memory.reader import Run
from skipopu.machine.config import Machine

WRITE_CLIENTS = 2  # 0 vector unit, 1 control


class WriteBeat(data.StructLayout):
    """One beat of write data with its byte strobes."""

    def __init__(self, machine: Machine) -> None:
        super().__init__({"data": machine.port_bits, "strobe": machine.beat_bytes})


class WritePort(Component):
    """Writes runs of beats, one burst outstanding; two clients, client 1 first.

    A run is done (``done_k`` for one cycle) when the response to its last burst arrived, so what it wrote can be read.
    Members: runs_k, beats_k (in streams of client k), done_k, stop (in: no more bursts, the one under
    way ends without data that does not come), quiet (out: no burst is under way), error, beat (out), and the AXI write channels.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        members = {name: m for name, m in axi4(machine.port_bits).members.items() if name[:2] == "aw" or name[0] in "wb"}
        for k in range(WRITE_CLIENTS):
            members[f"runs_{k}"] = In(stream.Signature(Run(machine)))
            members[f"beats_{k}"] = In(stream.Signature(WriteBeat(machine)))
            members[f"done_{k}"] = Out(1)
        super().__init__({**members, "stop": In(1), "quiet": Out(1), "error": Out(1), "error_client": Out(1), "beat": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        beat_bits = (machine.beat_bytes - 1).bit_length()
        client, filling = Signal(), Signal()
        beat, left = (Signal(Run(machine)[name].shape, name=name) for name in ("beat", "count"))
        page = 4096 // machine.beat_bytes
        to_page = Signal(range(page + 1))
        most = machine.longest_write
        size, remaining = Signal(range(most + 1)), Signal(range(most + 1))
        m.d.comb += to_page.eq(page - beat[: page.bit_length() - 1])
        limit = Mux(to_page < most, to_page, most)
        m.d.comb += size.eq(Mux(left < limit, left, limit))
        m.d.comb += [
            self.awaddr.eq(Cat(Const(0, beat_bits), beat)),
            self.awlen.eq(size - 1),
            self.awsize.eq(beat_bits),
            self.awburst.eq(BURST_INCR),
            self.wlast.eq(remaining == 1),
            self.beat.eq(self.wvalid & self.wready),
            self.error.eq(self.bvalid & self.bready & (self.bresp != 0)),
            self.error_client.eq(client),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.quiet.eq(1)
                for k, runs in ((0, self.runs_0), (1, self.runs_1)):
                    with m.If((runs.valid if k else runs.valid & ~self.runs_1.valid) & ~self.stop):
                        m.d.comb += runs.ready.eq(1)
                        m.d.sync += [client.eq(k), beat.eq(runs.payload.beat), left.eq(runs.payload.count)]
                        m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.comb += self.awvalid.eq(1)
                with m.If(self.awready):
                    m.d.sync += [remaining.eq(size), left.eq(left - size), beat.eq(beat + size)]
                    m.next = "DATA"
            with m.State("DATA"):
                for k, beats in ((0, self.beats_0), (1, self.beats_1)):
                    with m.If(client == k):
                        m.d.comb += [
                            self.wvalid.eq(beats.valid | filling),
                            self.wdata.eq(beats.payload.data),
                            self.wstrb.eq(beats.payload.strobe),
                            beats.ready.eq(self.wready & ~filling),
                        ]
                # What is shown on the bus stands until it is taken.
                with m.If(filling):
                    m.d.comb += [self.wdata.eq(0), self.wstrb.eq(0)]
                with m.Elif(self.stop & ~self.wvalid):
                    m.d.sync += filling.eq(1)
                with m.If(self.wvalid & self.wready):
                    m.d.sync += remaining.eq(remaining - 1)
                    with m.If(remaining == 1):
                        m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += self.bready.eq(1)
                with m.If(self.bvalid):
                    with m.If(left == 0):
                        m.d.comb += [self.done_0.eq(client == 0), self.done_1.eq(client == 1)]
                        m.next = "IDLE"
                    with m.Elif(self.stop):
                        m.next = "IDLE"
                    with m.Else():
                        m.next = "ADDRESS"
        return m
