"""The activations of a step's channels, one for each multiplier."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from hw.arithmetic.pipeline import registered
from hw.component import Component, given, gives
from skipopu.machine.config import TOKENS_AT_ONCE, Machine
from skipopu.numerics.align import ALIGNED_BITS


def word_lanes(machine: Machine) -> int:
    """Mantissas of a word of the aligned memory: a beat's channels, or what is aligned in a cycle."""
    return max(machine.channel_slots, machine.vector_lanes)


class Operands(Component):
    """Of two tokens' words the channels of a beat, repeated over the multipliers: multiplier i has channel i mod ``2 ** channels``, 0 where that is
    masked.

    Latency: 1 cycle. Throughput: a step per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        lanes = word_lanes(machine)
        self.words = [given(ALIGNED_BITS * lanes, f"of token {k}") for k in range(TOKENS_AT_ONCE)]
        if machine.masks:
            self.masks = [given(lanes, f"which of them count, token {k}") for k in range(TOKENS_AT_ONCE)]
        self.place = given(range(lanes), "of the first channel in them")
        self.channels = given(range(machine.channel_slots.bit_length()), "of the beat, logarithm")
        self.operands = gives(ALIGNED_BITS * machine.weight_lanes, "to every slice, a token's multipliers behind the other's")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        slots, lanes = machine.channel_slots, word_lanes(machine)
        tokens: list[Value] = []
        for token, word in enumerate(self.words):
            own: list[Value] = []
            for slot in range(slots):
                which = Signal(range(lanes), name=f"which_{token}_{slot}")
                for bit in range(len(which)):
                    fixed = bit < slots.bit_length() - 1
                    m.d.comb += which[bit].eq(Mux(self.channels > bit, slot >> bit & 1, self.place[bit]) if fixed else self.place[bit])
                value = word.word_select(which, ALIGNED_BITS)
                if machine.masks:
                    value &= self.masks[token].bit_select(which, 1).replicate(ALIGNED_BITS)
                own.append(registered(m, value, f"operand_{token}_{slot}"))
            tokens += own * (machine.weight_lanes // TOKENS_AT_ONCE // slots)
        m.d.comb += self.operands.eq(Cat(tokens))
        return m
