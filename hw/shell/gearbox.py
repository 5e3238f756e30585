"""From the overlay's wide port to a memory channel of half the width at another clock."""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib.fifo import AsyncFIFOBuffered
from amaranth.lib.memory import Memory

from hw.component import Component, given, gives
from hw.memory.axi import BURST_INCR, Axi4

RATIO = 2
REQUESTS, DATA = 8, 16  # depths of the crossings
MOST_BEATS = 256 // RATIO  # of a wide burst: AXI4 counts to 256


class Address(NamedTuple):
    """An AXI4 address channel."""

    address: Signal
    length: Signal
    name: Signal
    valid: Signal
    ready: Signal
    size: Signal
    burst: Signal


class Gearbox(Component):
    """AXI4 at ``bits`` in clock domain ``sync`` to AXI4 at half of it in domain ``memory``; the clocks may be anything to each other.

    A burst of n beats becomes one of 2n, the lower half of a beat first. Reads of different IDs may interleave on the narrow side.

    Latency: the crossings', some 4 cycles of either clock each way. Throughput: a wide beat per ``sync`` cycle when ``memory`` is
    twice as fast.

    Parameters:
        bits: of a wide beat.
        address_bits: of addresses on both sides.
    """

    def __init__(self, bits: int, address_bits: int) -> None:
        self.bits = bits
        self.wide = given(Axi4(bits, address_bits), "AXI4 slave", "wide_{}")
        self.narrow = gives(Axi4(bits // RATIO, address_bits), "AXI4 master", "narrow_{}")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        half = self.bits // RATIO
        wide, narrow = self.wide, self.narrow

        def crossing(name: str, width: int, depth: int, outwards: bool) -> AsyncFIFOBuffered:
            w_domain, r_domain = ("sync", "memory") if outwards else ("memory", "sync")
            m.submodules[name] = fifo = AsyncFIFOBuffered(width=width, depth=depth, w_domain=w_domain, r_domain=r_domain)
            return fifo

        # Addresses
        for kind, (source, target) in {
            "ar": [
                Address(x.araddr, x.arlen, x.arid, x.arvalid, x.arready, x.arsize, x.arburst) for x in (self.wide, self.narrow)
            ],
            "aw": [
                Address(x.awaddr, x.awlen, x.awid, x.awvalid, x.awready, x.awsize, x.awburst) for x in (self.wide, self.narrow)
            ],
        }.items():
            taken = Cat(source.address, source.length, source.name)
            fifo = crossing(kind, len(taken), REQUESTS, True)
            length = Signal(8, name=f"{kind}_length")
            m.d.comb += [
                fifo.w_data.eq(taken),
                fifo.w_en.eq(source.valid),
                source.ready.eq(fifo.w_rdy),
                Cat(target.address, length, target.name).eq(fifo.r_data),
                target.length.eq(Cat(1, length)),
                target.size.eq((half // 8 - 1).bit_length()),
                target.burst.eq(BURST_INCR),
                target.valid.eq(fifo.r_rdy),
                fifo.r_en.eq(target.ready),
            ]

        # Write data: each wide beat goes out in two.
        written = Cat(wide.wdata, wide.wstrb, wide.wlast)
        fifo = crossing("w", len(written), DATA, True)
        data, strobe, last, upper = Signal(self.bits), Signal(self.bits // 8), Signal(), Signal()
        m.d.comb += [
            fifo.w_data.eq(written),
            fifo.w_en.eq(wide.wvalid),
            wide.wready.eq(fifo.w_rdy),
            Cat(data, strobe, last).eq(fifo.r_data),
            narrow.wdata.eq(data.word_select(upper, half)),
            narrow.wstrb.eq(strobe.word_select(upper, half // 8)),
            narrow.wlast.eq(last & upper),
            narrow.wvalid.eq(fifo.r_rdy),
            fifo.r_en.eq(narrow.wready & upper),
        ]
        with m.If(narrow.wvalid & narrow.wready):
            m.d.memory += upper.eq(~upper)

        # Read data: the lower half of each ID waits for its upper half.
        came = Cat(wide.rdata, wide.rid, wide.rresp, wide.rlast)
        fifo = crossing("r", len(came), DATA, False)
        m.submodules.lower = lower = Memory(shape=half, depth=1 << len(narrow.rid), init=[])
        write, read = lower.write_port(domain="memory"), lower.read_port(domain="comb")
        waits = Array(Signal(name=f"waits_{k}") for k in range(1 << len(narrow.rid)))
        bad = Array(Signal(2, name=f"bad_{k}") for k in range(1 << len(narrow.rid)))
        second = waits[narrow.rid]
        response = Mux(bad[narrow.rid] != 0, bad[narrow.rid], narrow.rresp)
        m.d.comb += [
            narrow.rready.eq(~second | fifo.w_rdy),
            write.addr.eq(narrow.rid),
            write.data.eq(narrow.rdata),
            write.en.eq(narrow.rvalid & ~second),
            read.addr.eq(narrow.rid),
            fifo.w_data.eq(Cat(read.data, narrow.rdata, narrow.rid, response, narrow.rlast)),
            fifo.w_en.eq(narrow.rvalid & second),
            came.eq(fifo.r_data),
            wide.rvalid.eq(fifo.r_rdy),
            fifo.r_en.eq(wide.rready),
        ]
        with m.If(narrow.rvalid & narrow.rready):
            m.d.memory += [second.eq(~second), bad[narrow.rid].eq(narrow.rresp)]

        # Write responses
        answer = Cat(wide.bid, wide.bresp)
        fifo = crossing("b", len(answer), REQUESTS, False)
        m.d.comb += [
            fifo.w_data.eq(Cat(narrow.bid, narrow.bresp)),
            fifo.w_en.eq(narrow.bvalid),
            narrow.bready.eq(fifo.w_rdy),
            answer.eq(fifo.r_data),
            wide.bvalid.eq(fifo.r_rdy),
            fifo.r_en.eq(wide.bready),
        ]
        return m
