"""The first token of a layer's window, and where its entry stands in the walk over the KV map."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal

from hw.arithmetic.pipeline import bits_for_index
from hw.component import Bundle, Component, given, gives
from hw.kv.history import Half
from hw.kv.shapes import Heads
from hw.widths import POSITION_BITS, TOKEN_BITS
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_CONTEXT


class First(Bundle):
    """The first token of a walk, seen by who works it out."""

    def __init__(self, machine: Machine) -> None:
        self.token = gives(POSITION_BITS, "that token")
        self.round = gives(POSITION_BITS, "the first token of its round of the ports")
        self.port = gives(bits_for_index(machine.ports), "the port that holds its entry")
        self.slot = gives(TOKEN_BITS, "number of that round")
        self.base = gives(Half(machine)["base"].shape, "that round's beats in the history buffer")
        super().__init__()


class FirstToken(Component):
    """Divides the first position that a window reaches by the number of ports.

    Latency: 3 cycles, 2 where an instruction may have a single query, as listing that takes no longer. Throughput: a window per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.position = given(POSITION_BITS, "of the query that sees the earliest token")
        self.window = given(POSITION_BITS, "tokens that a query sees, 0: all")
        self.heads = given(Heads(machine), "the model's heads")
        self.first = gives(First(machine), "where the walk begins", "{}")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ports, first = self.machine.ports, self.first
        tokens = [Signal(range(LARGEST_CONTEXT), name=f"token_{k}") for k in range(2)]
        token, slot = tokens[0], Signal(range(LARGEST_CONTEXT))
        reaches_all = (self.window == 0) | (self.window > self.position)
        # n // d is n * ceil(2**k / d) >> k for n below 2**(k - bits of d)
        shift = len(token) + (ports - 1).bit_length()
        early = m.d.sync if self.machine.tokens > 1 else m.d.comb
        early += token.eq(Mux(reaches_all, 0, self.position + 1 - self.window))
        m.d.sync += [
            tokens[1].eq(token),
            slot.eq(token * -(-(1 << shift) // ports) >> shift),
            first.token.eq(tokens[1]),
            first.round.eq(slot * ports),
            first.port.eq(tokens[1] - slot * ports),
            first.slot.eq(slot),
            first.base.eq(slot[: len(first.base)] * (self.heads.kv_words << 1)),
        ]
        return m
