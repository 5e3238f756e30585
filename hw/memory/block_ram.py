"""Block RAM behind a memory port."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hw.component import Bundle, Component, given, gives
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


class WordAccess(Bundle):
    """Single 32-bit words of a memory, one at a time."""

    def __init__(self) -> None:
        self.valid = gives(1, "an access is wanted; it stands until it is ready")
        self.write = gives(1, "of writing")
        self.address = gives(32, "byte address, inside the memory")
        self.data = gives(WORD_BITS, "word to write")
        self.ready = given(1, "done, for a cycle")
        self.result = given(WORD_BITS, "the word read, with it")
        super().__init__()


class BlockRam(Component):
    """An AXI4 slave with ``size`` bytes, and a second way in for single words, between bursts.

    Writes: one burst at a time. Beats beyond ``size`` answer a decode error and write nothing. INCR bursts of full beats only, as
    :class:`hw.memory.axi.Axi4` says.

    Latency: :data:`LATENCY` cycles from an address to its first beat, 4 from an access to the word read, none to a word written.
    Throughput: a beat per cycle either way, read bursts without a gap and in order; one waits behind the one under way.

    Parameters:
        machine: whose port it is.
        size: bytes, a multiple of a beat.
    """

    def __init__(self, machine: Machine, size: int) -> None:
        self.machine, self.size = machine, size
        self.port = given(Axi4(machine.port_bits), "AXI4 slave", "port_{}")
        self.access = given(WordAccess(), "single words", "access_{}")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        port, access = self.port, self.access
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
        which = access.address[2:low]

        # Reads: address, memory, output register; all of them stand while an answer waits.
        moves = Signal()
        m.d.comb += moves.eq(~port.rvalid | port.rready)
        address, left, name = Signal(len(port.araddr) - low), Signal(9), Signal(2)
        next_address, next_left, next_name = Signal.like(address), Signal.like(left), Signal.like(name)
        waits = Signal()  # the next burst, for the one under way
        wanted, mine = Signal(), Signal()  # the access's: it is one of reading, it is its turn
        free = (left == 0) | ((left == 1) & moves)
        fetched = Signal()  # a beat leaves the memory
        reading = Signal(2)  # the access's, in memory and behind it
        busy = (left != 0) | waits | fetched | port.rvalid | mine | reading.any()
        m.d.sync += [wanted.eq(access.valid & ~access.write & ~access.ready), mine.eq(wanted & ~busy)]
        m.d.comb += [
            port.arready.eq(~waits & ~wanted),  # an access is wanted until it has been read
            read_address.eq(Mux(mine, access.address >> low, address)),
            read_enable.eq(moves | mine),
        ]
        taken = port.arvalid & port.arready
        asked = Cat(port.araddr[low:], port.arlen + 1, port.arid)
        with m.If(moves & (left != 0)):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
        with m.If(free):
            m.d.sync += waits.eq(0)
            with m.If(waits | taken):
                m.d.sync += Cat(address, left, name).eq(Mux(waits, Cat(next_address, next_left, next_name), asked))
        with m.Elif(taken):
            m.d.sync += [Cat(next_address, next_left, next_name).eq(asked), waits.eq(1)]
        outside, last, answered = Signal(), Signal(), Signal(2)
        with m.If(moves):
            m.d.sync += [
                fetched.eq(left != 0),
                outside.eq(address >= depth),
                last.eq(left == 1),
                answered.eq(name),
                port.rvalid.eq(fetched),
                port.rdata.eq(read_data),
                port.rresp.eq(Mux(outside, DECODE_ERROR, 0)),
                port.rlast.eq(last),
                port.rid.eq(answered),
            ]
        m.d.sync += reading.eq(Cat(mine, reading[0]))
        m.d.sync += access.result.eq(read_data.word_select(which, WORD_BITS) if words > 1 else read_data)

        # Writes
        target, missing, tag = Signal(len(port.awaddr) - low), Signal(), Signal(2)
        storing = Signal()
        m.d.comb += [
            write_address.eq(target),
            write_data.eq(port.wdata),
            port.bid.eq(tag),
            port.bresp.eq(Mux(missing, DECODE_ERROR, 0)),
            access.ready.eq(reading[1] | storing),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(access.valid & access.write):
                    m.d.comb += [
                        storing.eq(1),
                        write_address.eq(access.address >> low),
                        write_data.eq(Cat(access.data for _ in range(words))),
                        write_enable.eq(15 << (which << 2) if words > 1 else 15),
                    ]
                with m.Else():
                    m.d.comb += port.awready.eq(1)
                    with m.If(port.awvalid):
                        m.d.sync += [target.eq(port.awaddr >> low), tag.eq(port.awid), missing.eq(0)]
                        m.next = "DATA"
            with m.State("DATA"):
                m.d.comb += port.wready.eq(1)
                with m.If(port.wvalid):
                    with m.If(target < depth):
                        m.d.comb += write_enable.eq(port.wstrb)
                    with m.Else():
                        m.d.sync += missing.eq(1)
                    m.d.sync += target.eq(target + 1)
                    with m.If(port.wlast):
                        m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += port.bvalid.eq(1)
                with m.If(port.bready):
                    m.next = "IDLE"
        return m
