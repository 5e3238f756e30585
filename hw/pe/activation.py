"""The aligned activations that all slices share."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.pipeline import bits_for_index
from skipopu.machine.config import Machine
from skipopu.numerics.align import ALIGNED_BITS

ACTIVATION_WRITES = (
    "write_slot",
    "write_element",
    "write_data",
    "write_enable",
    "exponent_slot",
    "exponent_group",
    "exponent_data",
    "exponent_enable",
)


class AlignedMemory(Component):
    """Aligned mantissas by slot in words of ``lanes``, and the groups' exponents; reads take one cycle.

    Parameters: machine; elements per slot; lanes per word. Members: write_slot, write_element (element index of the first of
    ``vector_lanes`` mantissas), write_data, write_enable; exponent_slot, exponent_group, exponent_data, exponent_enable;
    read_slot, read_word, read_group (in), data, exponent (out); range (out: a write went beyond a slot).
    """

    def __init__(self, machine: Machine, elements: int, lanes: int) -> None:
        self.machine, self.elements, self.lanes = machine, elements, lanes
        self.words = elements // lanes
        slot = bits_for_index(machine.tokens)
        word = bits_for_index(self.words)
        super().__init__(
            {
                "write_slot": In(slot),
                "write_element": In(20),
                "write_data": In(ALIGNED_BITS * machine.vector_lanes),
                "write_enable": In(1),
                "exponent_slot": In(slot),
                "exponent_group": In(10),
                "exponent_data": In(8),
                "exponent_enable": In(1),
                "read_slot": In(slot),
                "read_word": In(word),
                "read_group": In(word),
                "data": Out(ALIGNED_BITS * lanes),
                "exponent": Out(8),
                "range": Out(1),
            }
        )

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
            exponent_write.addr.eq(self.exponent_slot * self.words + self.exponent_group),
            exponent_write.data.eq(self.exponent_data),
            exponent_write.en.eq(self.exponent_enable & (self.exponent_group < self.words)),
            exponent_read.addr.eq(self.read_slot * self.words + self.read_group),
            self.exponent.eq(exponent_read.data),
        ]
        return m
