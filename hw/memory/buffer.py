"""The on-chip FP32 buffer: words of ``vector_lanes`` elements, two readers, writers by priority."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.pipeline import bits_for_index
from skipopu.machine.config import Machine

ELEMENT_ADDRESS_BITS = 20  # flat element index; wider than any buffer, so that overruns are seen


class WordWrite(data.StructLayout):
    """``address`` is the element index of the word's first lane; ``enable`` one bit per lane."""

    def __init__(self, machine: Machine) -> None:
        lanes = machine.vector_lanes
        super().__init__({"address": ELEMENT_ADDRESS_BITS, "data": 32 * lanes, "enable": lanes})


def lane_of(machine: Machine, address: Signal) -> Signal | Const:
    """Lane of an element index within its word (0 when words have one lane)."""
    bits = machine.vector_lanes.bit_length() - 1
    return address[:bits] if bits else Const(0, 1)


class Buffer(Component):
    """Reads have one cycle of latency. The array's epilogue and the attention unit write without waiting (a legal
    program never lets both write at once; ``conflict`` says that one did), the vector unit waits for a free cycle.

    Members: read_k_address (element index; the whole word returns one cycle later as read_k_data), read_k_enable;
    element write port ``write`` (always accepted), word write streams ``vector`` and ``attention``; ``range`` (out): an
    address was beyond the buffer, with the unit's bit.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        word = WordWrite(machine)
        super().__init__(
            {
                "read_0_address": In(ELEMENT_ADDRESS_BITS),
                "read_0_enable": In(1),
                "read_0_data": Out(32 * machine.vector_lanes),
                "read_1_address": In(ELEMENT_ADDRESS_BITS),
                "read_1_enable": In(1),
                "read_1_data": Out(32 * machine.vector_lanes),
                "write_address": In(ELEMENT_ADDRESS_BITS),
                "write_data": In(32),
                "write_enable": In(1),
                "vector": In(stream.Signature(word)),
                "attention": In(stream.Signature(word)),
                "range": Out(3),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.vector_lanes
        shift = lanes.bit_length() - 1
        m.submodules.memory = memory = Memory(shape=32 * lanes, depth=machine.buffer // lanes, init=[])
        for address, enable, output in (
            (self.read_0_address, self.read_0_enable, self.read_0_data),
            (self.read_1_address, self.read_1_enable, self.read_1_data),
        ):
            port = memory.read_port()
            m.d.comb += [port.addr.eq(address[shift:]), output.eq(port.data), port.en.eq(enable)]
        write = memory.write_port(granularity=32)
        address = Signal(ELEMENT_ADDRESS_BITS)
        enable = Signal(lanes)
        lane = Signal(bits_for_index(max(2, lanes)))
        m.d.comb += lane.eq(lane_of(machine, self.write_address))
        with m.If(self.write_enable):
            m.d.comb += [
                address.eq(self.write_address),
                write.data.eq(Cat(self.write_data for _ in range(lanes))),
                enable.eq(Const(1, lanes) << lane),
            ]
        with m.Elif(self.attention.valid):
            m.d.comb += [
                address.eq(self.attention.payload.address),
                write.data.eq(self.attention.payload.data),
                enable.eq(self.attention.payload.enable),
                self.attention.ready.eq(1),
            ]
        with m.Elif(self.vector.valid):
            m.d.comb += [
                address.eq(self.vector.payload.address),
                write.data.eq(self.vector.payload.data),
                enable.eq(self.vector.payload.enable),
                self.vector.ready.eq(1),
            ]
        inside = address < machine.buffer
        m.d.comb += [write.addr.eq(address[shift:]), write.en.eq(Mux(inside, enable, 0))]
        outside = ~inside & enable.any()
        m.d.comb += self.range.eq(
            Cat(
                (outside & self.write_enable) | (self.read_0_enable & (self.read_0_address >= machine.buffer)),
                (outside & self.vector.ready) | (self.read_1_enable & (self.read_1_address >= machine.buffer)),
                outside & self.attention.ready,
            )
        )
        return m
