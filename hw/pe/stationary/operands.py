"""The activations of a step's channels, one for each multiplier."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from hw.arithmetic.pipeline import adder_tree, delay, delay_valid, registered
from hw.component import Component, given, gives
from hw.pe.activation import MANTISSA_SUM_BITS
from skipopu.machine.config import TOKENS_AT_ONCE, Machine
from skipopu.machine.pipeline import tree
from skipopu.numerics.align import ALIGNED_BITS


def word_lanes(machine: Machine) -> int:
    """Mantissas of a word of the aligned memory: a beat's channels, or what is aligned in a cycle."""
    return max(machine.channel_slots, machine.vector_lanes)


class Operands(Component):
    """Of two tokens' words the channels of a beat, repeated over the multipliers: multiplier i has channel i mod ``2 ** channels``, 0 where that is
    masked.

    Beside them the sum of a token's operands since the first step of a part: what plain nibbles are less in the multipliers is added back
    to all rows alike.

    Latency: 1 cycle to ``operands``, ``summed`` - 1 to ``sums``. Throughput: a step per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        lanes = word_lanes(machine)
        self.words = [given(ALIGNED_BITS * lanes, f"of token {k}") for k in range(TOKENS_AT_ONCE)]
        if machine.masks:
            self.masks = [given(lanes, f"which of them count, token {k}") for k in range(TOKENS_AT_ONCE)]
        self.place = given(range(lanes), "of the first channel in them")
        self.channels = given(range(machine.channel_slots.bit_length()), "of the beat, logarithm")
        self.product = given(1, "a step")
        self.first = given(1, "a part's first one")
        self.sums = [gives(signed(MANTISSA_SUM_BITS), f"of token {k}'s operands since then") for k in range(TOKENS_AT_ONCE)]
        self.operands = gives(ALIGNED_BITS * machine.weight_lanes, "to every slice, a token's multipliers behind the other's")
        super().__init__()

    @staticmethod
    def summed(machine: Machine) -> int:
        """Cycles from the step in which the sequencer asks for activations until they are in ``sums``."""
        return 3 + tree(machine.channel_slots)

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
                    m.d.comb += which[bit].eq(
                        Mux(self.channels > bit, slot >> bit & 1, self.place[bit]) if fixed else self.place[bit]
                    )
                value = word.word_select(which, ALIGNED_BITS)
                if machine.masks:
                    value &= self.masks[token].bit_select(which, 1).replicate(ALIGNED_BITS)
                own.append(registered(m, value, f"operand_{token}_{slot}"))
            tokens += own * (machine.weight_lanes // TOKENS_AT_ONCE // slots)
            self._sum(m, token, own)
        m.d.comb += self.operands.eq(Cat(tokens))
        return m

    def _sum(self, m: Module, token: int, own: list[Value]) -> None:
        """The channels' first copies."""
        channels = delay(m, self.channels, 1, f"channels_{token}")
        parts = [Mux(slot >> channels == 0, value, 0) for slot, value in ((Const(s), v.as_signed()) for s, v in enumerate(own))]
        total, cycles = adder_tree(m, parts, f"sum_{token}_")
        first, valid = (
            delay(m, self.first, 1 + cycles, f"first_{token}"),
            delay_valid(m, self.product, 1 + cycles, f"product_{token}"),
        )
        with m.If(valid):
            m.d.sync += self.sums[token].eq(total + Mux(first, 0, self.sums[token]))
        assert cycles + 3 == self.summed(self.machine)
