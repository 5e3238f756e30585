"""The aligned activations that all slices share."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import adder_tree, bits_for_index, delay, delay_valid
from hw.component import Component, given, gives
from hw.widths import ELEMENT_BITS, OFFSET_BITS
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_GROUP
from skipopu.machine.pipeline import mantissas_summed
from skipopu.numerics.align import ALIGNED_BITS

ACTIVATION_WRITES = ("write_slot", "write_element", "write_offset", "write_data", "write_exponent", "write_enable")


MANTISSA_SUM_BITS = ALIGNED_BITS + (LARGEST_GROUP - 1).bit_length()  # of a group's mantissas


class AlignedMemory(Component):
    """Aligned mantissas by slot in words of ``lanes``, at a group's first word, or piece of one, its exponent, and the sum of its mantissas
    if asked.

    Latency: 1 cycle; from a group's last write to its sum SUMMED more. Throughput: a write of ``vector_lanes`` mantissas and a read of a
    word per cycle.

    Parameters:
        machine: the machine.
        elements: of a slot.
        lanes: of a word.
        sums: groups have sums, each group's words written one behind the other.
        pieces: of a word that may be groups of their own, a power of two.
    """

    def __init__(self, machine: Machine, elements: int, lanes: int, sums: bool = False, pieces: int = 1) -> None:
        self.machine, self.elements, self.lanes, self.sums, self.pieces = machine, elements, lanes, sums, pieces
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
        self.read_group = given(word.width + pieces.bit_length() - 1, "its group's first word, or piece of one")
        self.data = gives(ALIGNED_BITS * lanes, "the word read, a cycle later")
        self.exponent = gives(8, "its group's exponent, with it")
        if sums:
            self.sum = gives(signed(MANTISSA_SUM_BITS), "the sum of its group's mantissas, with it")
        self.range = gives(1, "a write went beyond a slot")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.lanes
        slots, vector = machine.tokens, machine.vector_lanes
        piece = ALIGNED_BITS * vector
        m.submodules.mantissas = mantissas = Memory(shape=ALIGNED_BITS * lanes, depth=slots * self.words, init=[])
        places = self.words * self.pieces
        m.submodules.exponents = exponents = Memory(shape=8, depth=slots * places, init=[])
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
            exponent_write.addr.eq(write.addr if self.pieces == 1 else self._place(element)),
            exponent_write.data.eq(self.write_exponent),
            exponent_write.en.eq(self.write_enable & inside & (self.write_offset == 0)),
            exponent_read.addr.eq(self.read_slot * places + self.read_group),
            self.exponent.eq(exponent_read.data),
        ]
        if self.sums:
            self._sum(m, self.write_enable & inside, exponent_read.addr)
        return m

    def _place(self, element: Value) -> Value:
        """Where the exponent of a group that begins at the written slot's ``element`` is."""
        return self.write_slot * (self.words * self.pieces) + element[(self.lanes // self.pieces).bit_length() - 1 :]

    @staticmethod
    def summed(machine: Machine) -> int:
        """Cycles from a write until its mantissas are in the sum that is read."""
        return mantissas_summed(machine)

    def _sum(self, m: Module, writes: Value, place: Value) -> None:
        """With each word of a group the sum so far, at the group's first word."""
        parts = [
            self.write_data[ALIGNED_BITS * k : ALIGNED_BITS * (k + 1)].as_signed() for k in range(self.machine.vector_lanes)
        ]
        total, cycles = adder_tree(m, parts, "mantissas")
        assert cycles + 1 == self.summed(self.machine)
        running, so_far = (Signal(signed(MANTISSA_SUM_BITS), name=name) for name in ("running", "so_far"))
        written = delay_valid(m, writes, cycles, "summing")
        first = self._place((self.write_element - self.write_offset)[: len(self.write_element)])
        m.d.comb += running.eq(total + Mux(delay(m, self.write_offset == 0, cycles, "first"), 0, so_far))
        with m.If(written):
            m.d.sync += so_far.eq(running)
        m.submodules.sums = sums = Memory(
            shape=signed(MANTISSA_SUM_BITS), depth=self.machine.tokens * self.words * self.pieces, init=[]
        )
        write, read = sums.write_port(), sums.read_port()
        m.d.comb += [
            write.addr.eq(delay(m, first, cycles, "sum_place")),
            write.data.eq(running),
            write.en.eq(written),
            read.addr.eq(place),
            self.sum.eq(read.data),
        ]
