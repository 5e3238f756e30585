"""The token lists of a chunk."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from hw.arithmetic.pipeline import count_shape, tree
from hw.component import Bundle, Component, given, gives
from skipopu.isa.spec import MATMUL, TokenList
from skipopu.machine.config import Machine


class Routed(Bundle):
    """A routing decision: a bit per slot, 1 to execute."""

    def __init__(self, machine: Machine) -> None:
        self.attention = gives(machine.tokens, "slots whose attention executes")
        self.ffn = gives(machine.tokens, "slots whose feed-forward network executes")
        super().__init__()


class TokenLists(Component):
    """The slots of the present chunk, and which of them each list holds.

    A chunk is what is left of the prompt, or of the tokens known behind it, as far as there are slots, or one token behind them. Its
    routed lists hold every slot until a decision comes.

    Latency: 1 cycle from ``open`` to ``count``, 2 to the lists and ``ends``, 3 to that of the last slot, 1 from ``decided`` to
    the routed ones; none from ``chosen`` to ``mask`` and from ``position`` to ``decoding``. Throughput: a decision per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.restart = given(1, "a run starts, for a cycle")
        self.open = given(1, "a chunk starts, for a cycle")
        self.position = given(32, "of its first slot")
        self.prompt_length = given(32, "tokens of the prompt")
        self.known_length = given(32, "tokens that are known, the prompt's among them")
        self.predict_from = given(32, "first position whose argmax is wanted")
        self.decided = given(1, "a routing decision, for a cycle")
        self.routed = given(Routed(machine), "which it is", "{}")
        self.chosen = given(MATMUL.by_name["list"].width, "a list")
        self.mask = gives(machine.tokens, "slots that it holds")
        self.count = gives(count_shape(machine.tokens), "slots of the chunk")
        self.last_slot = gives(count_shape(machine.tokens), "the last one")
        self.decoding = gives(1, "the chunk lies behind the prompt")
        self.ends = gives(1, "no known token follows the chunk: its last slot makes one")
        self.asked = gives(machine.tokens, "slots from the first position on whose argmax is wanted")
        self.executed_attention = gives(64, "slots whose attention executed, over all decisions")
        self.executed_ffn = gives(64, "slots whose feed-forward network executed, over all decisions")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        tokens = self.machine.tokens
        attention, ffn, every, held = Signal(tokens), Signal(tokens), Signal(tokens), Signal(tokens)
        left, opened = Signal(32), Signal()
        until = Mux(self.decoding, self.known_length, self.prompt_length)
        to_first = Signal(signed(33))
        m.d.comb += [
            every.eq((Const(1, tokens + 1) << self.count) - 1),
            left.eq(until - self.position),
            to_first.eq(self.predict_from - self.position),
            self.last_slot.eq(self.count - 1),
            self.decoding.eq(self.position >= self.prompt_length),
        ]
        last = Signal(tokens)
        m.d.sync += [
            held.eq(every),
            self.ends.eq(self.position + self.count >= self.known_length),
            last.eq(Mux(self.ends, Const(1, tokens + 1) << self.last_slot, 0) | self.asked),
        ]
        with m.Switch(self.chosen):
            with m.Case(TokenList.ALL):
                m.d.comb += self.mask.eq(held)
            with m.Case(TokenList.ATTENTION):
                m.d.comb += self.mask.eq(attention)
            with m.Case(TokenList.FFN):
                m.d.comb += self.mask.eq(ffn)
            with m.Case(TokenList.LAST):
                m.d.comb += self.mask.eq(last)
        m.d.sync += opened.eq(self.open)
        with m.If(self.open):
            with m.If(self.position >= until):
                m.d.sync += self.count.eq(1)
            with m.Elif(left < tokens):
                m.d.sync += self.count.eq(left)
            with m.Else():
                m.d.sync += self.count.eq(tokens)
        with m.If(self.decided):
            m.d.sync += [
                attention.eq(self.routed.attention),
                ffn.eq(self.routed.ffn),
                self.executed_attention.eq(self.executed_attention + ones(self.routed.attention)),
                self.executed_ffn.eq(self.executed_ffn + ones(self.routed.ffn)),
            ]
        with m.If(opened):
            m.d.sync += [attention.eq(every), ffn.eq(every)]
            m.d.sync += self.asked.eq(every & Cat(to_first <= slot for slot in range(tokens)))
        with m.If(self.restart):
            m.d.sync += [self.count.eq(0), self.executed_attention.eq(0), self.executed_ffn.eq(0)]
        return m


def ones(value: Value) -> Value:
    """Bits of ``value`` that are set."""
    return tree([value[k] for k in range(len(value))], lambda a, b: a + b)
