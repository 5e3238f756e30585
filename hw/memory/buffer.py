"""The on-chip FP32 buffer: words of ``vector_lanes`` elements, three readers, writers by priority."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.pipeline import bits_for_index
from skipopu.isa.spec import Unit
from skipopu.machine.config import Machine

ELEMENT_ADDRESS_BITS = 20  # flat element index; wider than any buffer, so that overruns are seen


class WordWrite(data.StructLayout):
    """Elements of one word: ``address`` is the index of any of them, ``enable`` one bit per lane, ``slot`` the token's."""

    def __init__(self, machine: Machine) -> None:
        lanes = machine.vector_lanes
        slot = bits_for_index(machine.tokens)
        super().__init__({"address": ELEMENT_ADDRESS_BITS, "data": 32 * lanes, "enable": lanes, "slot": slot})


def lane_of(machine: Machine, address: Signal) -> Signal | Const:
    """Lane of an element index within its word (0 when words have one lane)."""
    bits = machine.vector_lanes.bit_length() - 1
    return address[:bits] if bits else Const(0, 1)


READERS = (
    Unit.ARRAY,
    Unit.VECTOR,
    Unit.VECTOR,
)  # the epilogue's residual, the vector unit, the aligner: whose fault an overrun is


class Buffer(Component):
    """Reads have one cycle of latency. The array and the attention unit write without waiting (never both at once), the vector
    unit waits for a free cycle.

    Members: read_k_address (element index; the whole word returns one cycle later as read_k_data), read_k_enable; word write
    streams ``array``, ``attention`` and ``vector``; written_valid, written, written_by (out: the write that is taking place, of which unit); ``range``
    (out): an address was beyond the buffer, with the unit's bit.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        word = WordWrite(machine)
        members = {}
        for k in range(len(READERS)):
            members |= {
                f"read_{k}_address": In(ELEMENT_ADDRESS_BITS),
                f"read_{k}_enable": In(1),
                f"read_{k}_data": Out(32 * machine.vector_lanes),
            }
        super().__init__(
            {
                **members,
                "array": In(stream.Signature(word)),
                "attention": In(stream.Signature(word)),
                "vector": In(stream.Signature(word)),
                "written_valid": Out(1),
                "written_by": Out(2),
                "written": Out(word),
                "range": Out(3),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.vector_lanes
        shift = lanes.bit_length() - 1
        m.submodules.memory = memory = Memory(shape=32 * lanes, depth=machine.buffer // lanes, init=[])
        beyond = [Signal(name=f"beyond_{unit.name.lower()}") for unit in Unit]
        overruns: list[list[Value]] = [[] for _ in Unit]
        for k, unit in enumerate(READERS):
            address, enable = getattr(self, f"read_{k}_address"), getattr(self, f"read_{k}_enable")
            port = memory.read_port()
            m.d.comb += [port.addr.eq(address[shift:]), getattr(self, f"read_{k}_data").eq(port.data), port.en.eq(enable)]
            overruns[unit].append(enable & (address >= machine.buffer))
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
