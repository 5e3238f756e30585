"""The aligned activations that all slices share."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import bits_for_index
from hw.component import Component, given, gives
from hw.widths import ELEMENT_BITS, OFFSET_BITS
from skipopu.machine.config import Machine
from skipopu.numerics.align import ALIGNED_BITS

ACTIVATION_WRITES = ("write_slot", "write_element", "write_offset", "write_data", "write_exponent", "write_enable")


class AlignedMemory(Component):
    """Aligned mantissas by slot in words of ``lanes``, a group's exponent at its first word.

    Latency: 1 cycle. Throughput: a write of ``vector_lanes`` mantissas and a read of a word per cycle.

    Parameters:
        machine: the machine.
        elements: of a slot.
        lanes: of a word.
    """

    def __init__(self, machine: Machine, elements: int, lanes: int) -> None:
        self.machine, self.elements, self.lanes = machine, elements, lanes
        self.words = elements // lanes
        slot = bits_for_index(machine.tokens)
        word = bits_for_index(self.words)
        self.write_slot = given(slot, "token slot of the mantissas")
        self.write_element = given(ELEMENT_BITS, "element index of the first of ``vector_lanes`` mantissas")
        self.write_offset = given(OFFSET_BITS, "the same within its group")
        self.write_data = given(ALIGNED_BITS * machine.vector_lanes, "mantissas to write")
        self.write_exponent = given(8, "their group's exponent")
        self.write_enable = given(1, "write now")
        self.read_slot = given(slot, "token slot of the word")
        self.read_word = given(word, "which of that slot's words")
        self.read_group = given(word, "its group's first word")
        self.data = gives(ALIGNED_BITS * lanes, "the word read, a cycle later")
        self.exponent = gives(8, "its group's exponent, with it")
        self.range = gives(1, "a write went beyond a slot")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.lanes
        slots, vector = machine.tokens, machine.vector_lanes
        piece = ALIGNED_BITS * vector
        m.submodules.mantissas = mantissas = Memory(shape=ALIGNED_BITS * lanes, depth=slots * self.words, init=[])
        m.submodules.exponents = exponents = Memory(shape=8, depth=slots * self.words, init=[])
        write, read = mantissas.write_port(granularity=piece), mantissas.read_port()
        element = self.write_element
        low, high = vector.bit_length() - 1, lanes.bit_length() - 1
        inside = element < self.elements
        which = Signal(bits_for_index(max(2, lanes // vector)))
        m.d.comb += which.eq(element[low:high] if high > low else Const(0, 1))
        m.d.comb += [
            write.addr.eq(self.write_slot * self.words + element[high:]),
            write.data.eq(Cat(self.write_data for _ in range(lanes // vector))),
            self.range.eq(self.write_enable & ~inside),
            read.addr.eq(self.read_slot * self.words + self.read_word),
            self.data.eq(read.data),
        ]
        with m.If(self.write_enable & inside):
            m.d.comb += write.en.eq(Const(1, lanes // vector) << which)
        exponent_write, exponent_read = exponents.write_port(), exponents.read_port()
        m.d.comb += [
            exponent_write.addr.eq(write.addr),
            exponent_write.data.eq(self.write_exponent),
            exponent_write.en.eq(self.write_enable & inside & (self.write_offset == 0)),
            exponent_read.addr.eq(self.read_slot * self.words + self.read_group),
            self.exponent.eq(exponent_read.data),
        ]
        return m
