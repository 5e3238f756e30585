"""The tokens of an instruction as a list of slots."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Signal

from hw.arithmetic.pipeline import bits_for_index, count_shape
from hw.component import Component, given, gives
from skipopu.machine.config import Machine

FEW = 4  # slots among which a choice is made in front of other work, without a register of its own


class TokenSlots(Component):
    """Compacts a slot mask into a list.

    Latency: ``machine.tokens`` + 1 cycles from a start to ready, none from a position to its slot. Throughput: a list at a time.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        slot = bits_for_index(machine.tokens)
        self.start = given(1, "take the mask")
        self.mask = given(machine.tokens, "slots to list, a bit each")
        self.ready = gives(1, "the list is complete")
        self.count = gives(count_shape(machine.tokens), "slots in it")
        self.position = given(slot, "place in the list")
        self.slot = gives(slot, "slot at that place")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        tokens = self.machine.tokens
        slots = Array(Signal(self.slot.shape(), name=f"slot_{i}") for i in range(tokens))
        index = Signal(count_shape(tokens), init=tokens)
        left = Signal(tokens)
        m.d.comb += [self.ready.eq((index == tokens) & ~self.start), self.slot.eq(slots[self.position])]
        with m.If(self.start):
            m.d.sync += [index.eq(0), self.count.eq(0), left.eq(self.mask)]
        with m.Elif(index != tokens):
            m.d.sync += [index.eq(index + 1), left.eq(left >> 1)]
            with m.If(left[0]):
                m.d.sync += [slots[self.count].eq(index), self.count.eq(self.count + 1)]
        return m
