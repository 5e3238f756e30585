"""Block RAM behind a memory port."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.memory.axi import Axi4
from skipopu.machine.config import Machine

LATENCY = 3  # cycles from an accepted read address to its first beat
DECODE_ERROR = 3  # AXI's response where nothing lies
WORD_BITS = 32


def powers_of_two(depth: int) -> list[int]:
    """Sizes that add up to ``depth``, falling.

    Block RAM stacked to such a size can be one bit wide: each gives one bit of a word, and little is left to select. Any other
    depth makes synthesis use wide, shallow shapes, eight times as many outputs, and route them to one place.
    """
    return [1 << bit for bit in reversed(range(depth.bit_length())) if depth >> bit & 1]


class BlockRam(Component):
    """An AXI4 slave with ``size`` bytes, and a second way in for single words.

    Reads: a beat per cycle, bursts without a gap, in order. Writes: one burst at a time, a beat per cycle. Beats beyond ``size``
    answer a decode error and write nothing. INCR bursts of full beats only, as :func:`hw.memory.axi.Axi4` says.

    Members: port_* (AXI4 slave); access_valid, access_write, access_address (byte address, below ``size``), access_data (in),
    access_ready (out for one cycle, with access_result): one 32-bit word, between bursts.
    """

    def __init__(self, machine: Machine, size: int) -> None:
        self.machine, self.size = machine, size
        super().__init__(
            {
                **{f"port_{name}": member for name, member in Axi4(machine.port_bits).flip().members.items()},
                "access_valid": In(1),
                "access_write": In(1),
                "access_address": In(32),
                "access_data": In(WORD_BITS),
                "access_ready": Out(1),
                "access_result": Out(WORD_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits, beat = self.machine.port_bits, self.machine.beat_bytes
        words = bits // WORD_BITS
        low = (beat - 1).bit_length()
        depth = self.size // beat
        read_address, read_enable, read_data = Signal(range(depth)), Signal(), Signal(bits)
        write_address, write_enable, write_data = Signal(range(depth)), Signal(beat), Signal(bits)
        selected = Signal(range(depth))
        with m.If(read_enable):
            m.d.sync += selected.eq(read_address)
        start = 0
        for number, size in enumerate(powers_of_two(depth)):
            m.submodules[f"cells_{number}"] = cells = Memory(shape=bits, depth=size, init=[])
            read, write = cells.read_port(), cells.write_port(granularity=8)
            within = size.bit_length() - 1  # bits of an address in this memory; it starts at a multiple of its size
            m.d.comb += [
                read.addr.eq(read_address[:within]),
                read.en.eq(read_enable),
                write.addr.eq(write_address[:within]),
                write.data.eq(write_data),
            ]
            with m.If(write_address >> within == start >> within):
                m.d.comb += write.en.eq(write_enable)
            with m.If(selected >> within == start >> within):
                m.d.comb += read_data.eq(read.data)
            start += size
        which = self.access_address[2:low]

        # Reads: address, memory, output register; all of them stand while an answer waits.
        moves = Signal()
        m.d.comb += moves.eq(~self.port_rvalid | self.port_rready)
        address, left, name = Signal(len(self.port_araddr) - low), Signal(9), Signal(2)
        mine = Signal()  # the access's turn
        accepts = (left == 0) | ((left == 1) & moves)
        fetched = Signal()  # a beat leaves the memory
        reading = Signal(2)  # the access's, in memory and behind it
        m.d.comb += [
            mine.eq(self.access_valid & ~self.access_write & (left == 0) & ~fetched & ~self.port_rvalid & ~reading.any()),
            self.port_arready.eq(accepts & ~mine & ~reading.any()),
            read_address.eq(Mux(mine, self.access_address >> low, address)),
            read_enable.eq(moves | mine),
        ]
        taken = self.port_arvalid & self.port_arready
        with m.If(moves & (left != 0)):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
        with m.If(taken):
            m.d.sync += [address.eq(self.port_araddr >> low), left.eq(self.port_arlen + 1), name.eq(self.port_arid)]
        outside, last, answered = Signal(), Signal(), Signal(2)
        with m.If(moves):
            m.d.sync += [
                fetched.eq(left != 0),
                outside.eq(address >= depth),
                last.eq(left == 1),
                answered.eq(name),
                self.port_rvalid.eq(fetched),
                self.port_rdata.eq(read_data),
                self.port_rresp.eq(Mux(outside, DECODE_ERROR, 0)),
                self.port_rlast.eq(last),
                self.port_rid.eq(answered),
            ]
        m.d.sync += reading.eq(Cat(mine, reading[0]))
        m.d.sync += self.access_result.eq(read_data.word_select(which, WORD_BITS) if words > 1 else read_data)

        # Writes
        target, missing, tag = Signal(len(self.port_awaddr) - low), Signal(), Signal(2)
        storing = Signal()
        m.d.comb += [
            write_address.eq(target),
            write_data.eq(self.port_wdata),
            self.port_bid.eq(tag),
            self.port_bresp.eq(Mux(missing, DECODE_ERROR, 0)),
            self.access_ready.eq(reading[1] | storing),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.access_valid & self.access_write):
                    m.d.comb += [
                        storing.eq(1),
                        write_address.eq(self.access_address >> low),
                        write_data.eq(Cat(self.access_data for _ in range(words))),
                        write_enable.eq(15 << (which << 2) if words > 1 else 15),
                    ]
                with m.Else():
                    m.d.comb += self.port_awready.eq(1)
                    with m.If(self.port_awvalid):
                        m.d.sync += [target.eq(self.port_awaddr >> low), tag.eq(self.port_awid), missing.eq(0)]
                        m.next = "DATA"
            with m.State("DATA"):
                m.d.comb += self.port_wready.eq(1)
                with m.If(self.port_wvalid):
                    with m.If(target < depth):
                        m.d.comb += write_enable.eq(self.port_wstrb)
                    with m.Else():
                        m.d.sync += missing.eq(1)
                    m.d.sync += target.eq(target + 1)
                    with m.If(self.port_wlast):
                        m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += self.port_bvalid.eq(1)
                with m.If(self.port_bready):
                    m.next = "IDLE"
        return m
