"""From the overlay's wide port to a memory channel of half the width at another clock."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib.fifo import AsyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component

from hw.memory.axi import Axi4

RATIO = 2
REQUESTS, DATA = 8, 16  # depths of the crossings
MOST_BEATS = 256 // RATIO  # of a wide burst: AXI4 counts to 256


class Gearbox(Component):
    """AXI4 at ``bits`` in clock domain ``sync`` to AXI4 at half of it in domain ``memory``; the clocks may be anything to each other.

    A burst of n beats becomes one of 2n, the lower half of a beat first. Reads of different IDs may interleave on the narrow side.
    Throughput: a wide beat per ``sync`` cycle when ``memory`` is twice as fast. Latency: the crossings', some 4 cycles of either
    clock each way.

    Members: wide_* (AXI4 slave), narrow_* (AXI4 master).
    """

    def __init__(self, bits: int, address_bits: int) -> None:
        self.bits = bits
        self.wide, self.narrow = Axi4(bits, address_bits).flip(), Axi4(bits // RATIO, address_bits)
        super().__init__(
            {
                **{f"wide_{name}": member for name, member in self.wide.members.items()},
                **{f"narrow_{name}": member for name, member in self.narrow.members.items()},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        half = self.bits // RATIO

        def crossing(name: str, width: int, depth: int, outwards: bool) -> AsyncFIFOBuffered:
            domains = {"w_domain": "sync", "r_domain": "memory"} if outwards else {"w_domain": "memory", "r_domain": "sync"}
            m.submodules[name] = fifo = AsyncFIFOBuffered(width=width, depth=depth, **domains)
            return fifo

        # Addresses
        for kind in ("ar", "aw"):

            def wide(name: str, kind: str = kind) -> Signal:
                return getattr(self, f"wide_{kind}{name}")

            def narrow(name: str, kind: str = kind) -> Signal:
                return getattr(self, f"narrow_{kind}{name}")

            taken = Cat(wide("addr"), wide("len"), wide("id"))
            fifo = crossing(kind, len(taken), REQUESTS, True)
            length = Signal(8, name=f"{kind}_length")
            m.d.comb += [
                fifo.w_data.eq(taken),
                fifo.w_en.eq(wide("valid")),
                wide("ready").eq(fifo.w_rdy),
                Cat(narrow("addr"), length, narrow("id")).eq(fifo.r_data),
                narrow("len").eq(Cat(1, length)),
                narrow("size").eq((half // 8 - 1).bit_length()),
                narrow("burst").eq(1),
                narrow("valid").eq(fifo.r_rdy),
                fifo.r_en.eq(narrow("ready")),
            ]

        # Write data: each wide beat goes out in two.
        written = Cat(self.wide_wdata, self.wide_wstrb, self.wide_wlast)
        fifo = crossing("w", len(written), DATA, True)
        data, strobe, last, upper = Signal(self.bits), Signal(self.bits // 8), Signal(), Signal()
        m.d.comb += [
            fifo.w_data.eq(written),
            fifo.w_en.eq(self.wide_wvalid),
            self.wide_wready.eq(fifo.w_rdy),
            Cat(data, strobe, last).eq(fifo.r_data),
            self.narrow_wdata.eq(data.word_select(upper, half)),
            self.narrow_wstrb.eq(strobe.word_select(upper, half // 8)),
            self.narrow_wlast.eq(last & upper),
            self.narrow_wvalid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.narrow_wready & upper),
        ]
        with m.If(self.narrow_wvalid & self.narrow_wready):
            m.d.memory += upper.eq(~upper)

        # Read data: the lower half of each ID waits for its upper half.
        came = Cat(self.wide_rdata, self.wide_rid, self.wide_rresp, self.wide_rlast)
        fifo = crossing("r", len(came), DATA, False)
        m.submodules.lower = lower = Memory(shape=half, depth=1 << len(self.narrow_rid), init=[])
        write, read = lower.write_port(domain="memory"), lower.read_port(domain="comb")
        waits = Array(Signal(name=f"waits_{k}") for k in range(1 << len(self.narrow_rid)))
        bad = Array(Signal(2, name=f"bad_{k}") for k in range(1 << len(self.narrow_rid)))
        second = waits[self.narrow_rid]
        response = Mux(bad[self.narrow_rid] != 0, bad[self.narrow_rid], self.narrow_rresp)
        m.d.comb += [
            self.narrow_rready.eq(~second | fifo.w_rdy),
            write.addr.eq(self.narrow_rid),
            write.data.eq(self.narrow_rdata),
            write.en.eq(self.narrow_rvalid & ~second),
            read.addr.eq(self.narrow_rid),
            fifo.w_data.eq(Cat(read.data, self.narrow_rdata, self.narrow_rid, response, self.narrow_rlast)),
            fifo.w_en.eq(self.narrow_rvalid & second),
            came.eq(fifo.r_data),
            self.wide_rvalid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.wide_rready),
        ]
        with m.If(self.narrow_rvalid & self.narrow_rready):
            m.d.memory += [second.eq(~second), bad[self.narrow_rid].eq(self.narrow_rresp)]

        # Write responses
        answer = Cat(self.wide_bid, self.wide_bresp)
        fifo = crossing("b", len(answer), REQUESTS, False)
        m.d.comb += [
            fifo.w_data.eq(Cat(self.narrow_bid, self.narrow_bresp)),
            fifo.w_en.eq(self.narrow_bvalid),
            self.narrow_bready.eq(fifo.w_rdy),
            answer.eq(fifo.r_data),
            self.wide_bvalid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.wide_bready),
        ]
        return m
