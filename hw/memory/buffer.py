"""The on-chip FP32 buffer: words of ``vector_lanes`` elements, three readers, writers by priority."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import bits_for_index
from hw.component import Bundle, Component, given, gives
from hw.widths import ELEMENT_BITS
from skipopu.isa.spec import Unit
from skipopu.machine.config import Machine


class WordWrite(data.StructLayout):
    """Elements of one word: ``address`` is the index of any of them, ``enable`` one bit per lane, ``slot`` the token's."""

    def __init__(self, machine: Machine) -> None:
        lanes = machine.vector_lanes
        slot = bits_for_index(machine.tokens)
        super().__init__({"address": ELEMENT_BITS, "data": 32 * lanes, "enable": lanes, "slot": slot})


def lane_of(machine: Machine, address: Value) -> Value:
    """Lane of an element index within its word (0 when words have one lane)."""
    bits = machine.vector_lanes.bit_length() - 1
    return address[:bits] if bits else Const(0, 1)


class BufferRead(Bundle):
    """A reader's view of the buffer."""

    def __init__(self, machine: Machine) -> None:
        self.address = gives(ELEMENT_BITS, "index of any element of the word")
        self.enable = gives(1, "read it")
        self.data = given(32 * machine.vector_lanes, "the whole word, a cycle later, until the next read")
        super().__init__()


READERS = (
    Unit.ARRAY,
    Unit.VECTOR,
    Unit.VECTOR,
)  # the epilogue's residual, the vector unit, the aligner: whose fault an overrun is


class Buffer(Component):
    """The array and the attention unit write without waiting (never both at once), the vector unit waits for a free cycle.

    Latency: 1 cycle from an address to its data, and from a write to a read that sees it. Throughput: a read per reader and a
    write per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        word, read = WordWrite(machine), BufferRead(machine)
        self.reads = [
            given(read, f"reader {k}, of unit {unit.name.lower()}", f"read_{k}_{{}}") for k, unit in enumerate(READERS)
        ]
        self.array = given(stream.Signature(word), "words of the array unit")
        self.attention = given(stream.Signature(word), "words of the attention unit")
        self.vector = given(stream.Signature(word), "words of the vector unit")
        self.written_valid = gives(1, "a write is taking place")
        self.written_by = gives(2, "of which unit")
        self.written = gives(word, "that write")
        self.range = gives(3, "an address was beyond the buffer, by unit")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.vector_lanes
        shift = lanes.bit_length() - 1
        m.submodules.memory = memory = Memory(shape=32 * lanes, depth=machine.buffer // lanes, init=[])
        beyond = [Signal(name=f"beyond_{unit.name.lower()}") for unit in Unit]
        overruns: list[list[Value]] = [[] for _ in Unit]
        for unit, read in zip(READERS, self.reads, strict=True):
            port = memory.read_port()
            m.d.comb += [port.addr.eq(read.address[shift:]), read.data.eq(port.data), port.en.eq(read.enable)]
            overruns[unit].append(read.enable & (read.address >= machine.buffer))
        write = memory.write_port(granularity=32)
        outside = Signal()
        blocked: Value = Const(0, 1)
        for unit, source in ((Unit.ARRAY, self.array), (Unit.ATTENTION, self.attention), (Unit.VECTOR, self.vector)):
            with m.If(source.valid & ~blocked):
                m.d.comb += [
                    self.written_valid.eq(1),
                    self.written_by.eq(unit),
                    self.written.eq(source.payload),
                    source.ready.eq(1),
                ]
            overruns[unit].append(outside & source.ready)
            blocked = blocked | source.valid
        inside = self.written.address < machine.buffer
        m.d.comb += [
            outside.eq(~inside & self.written_valid),
            write.addr.eq(self.written.address[shift:]),
            write.data.eq(self.written.data),
            write.en.eq(Mux(inside & self.written_valid, self.written.enable, 0)),
            *(signal.eq(Cat(causes).any()) for signal, causes in zip(beyond, overruns, strict=True)),
            self.range.eq(Cat(beyond)),
        ]
        return m
