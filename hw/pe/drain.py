"""Walks over the accumulators of complete rounds."""

from __future__ import annotations

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value

from hw.arithmetic.pipeline import bits_for_index, count_shape
from hw.component import Component, given, gives
from hw.pe.rounds import Rounds
from hw.widths import OUTPUT_BITS
from skipopu.isa.spec import BLOCK_ROWS
from skipopu.machine.config import Machine

PAIRS = BLOCK_ROWS // 2


class Drain(Component):
    """Takes ``drain_pairs`` pairs of rows of ``drain_ports`` ports at a time: all pairs of a token, all tokens, then the next ports.

    Latency: 1 cycle from a round to its first pair. Throughput: those per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.turns = machine.ports // machine.drain_ports
        self.start = given(1, "for one cycle: a product begins")
        self.round = given(Rounds(machine), "from the sequencer, at most one per bank", "round_{}")
        self.token_count = given(count_shape(machine.tokens), "listed tokens")
        self.half_head = given(8, "half of head_dim")
        self.pause = given(1, "no more pairs for now")
        self.done = given(1, "for one cycle: the product is done")
        self.draining = gives(1, "a pair is taken")
        self.drained = gives(1, "for one cycle: it is its round's last")
        self.finished = gives(1, "the product's last pair was taken, until it is done")
        self.bank = gives(1, "bank of the accumulators")
        self.token = gives(bits_for_index(machine.tokens), "place in the list of tokens")
        self.pair = gives(range(PAIRS), "pair of the block, of several the first")
        self.turn = gives(range(max(2, self.turns)), "which of the round's ports, counted in ``drain_ports``")
        self.blocks = gives(machine.ports, "ports of the round that have a block, from the turn's first on")
        self.last = gives(1, "the round is the product's last")
        if machine.stationary:
            self.within = gives(bits_for_index(machine.channel_slots), "which of the bank's rounds")
        self.row = gives(OUTPUT_BITS, "even row of the turn's first port")
        self.rotary = [gives(9, f"pair of its head, of the turn's port {i}") for i in range(machine.drain_ports)]
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        together = self.machine.drain_ports
        waiting = Signal(2)
        ports_of = Array(Signal(self.machine.ports, name=f"ports_{b}") for b in range(2))
        last_of = Array(Signal(name=f"last_{b}") for b in range(2))
        with m.If(self.round.done):
            m.d.sync += [
                waiting.bit_select(self.round.bank, 1).eq(1),
                ports_of[self.round.bank].eq(self.round.ports),
                last_of[self.round.bank].eq(self.round.last),
            ]
        row = Signal(OUTPUT_BITS)  # first row of the first port's block
        many, whole, pairs = self.machine.stationary, Signal(), self.machine.drain_pairs
        every = (1 << self.machine.ports) - 1
        m.d.comb += [
            self.draining.eq(waiting.bit_select(self.bank, 1) & ~self.pause),
            self.blocks.eq(
                (Mux(whole, ports_of[self.bank], every) if many else ports_of[self.bank])
                >> (self.turn << (together.bit_length() - 1))
            ),
            self.last.eq(last_of[self.bank] & whole if many else last_of[self.bank]),
            self.row.eq(row + (self.pair << 1)),
        ]
        last_token, following = Signal(), Signal.like(self.token)
        m.d.comb += following.eq(Mux(last_token, 0, self.token + 1))
        round_ends = Signal()
        last_turn = self._last_turn(m, whole) if many else (self.blocks >> together) == 0 if self.turns > 1 else Const(1, 1)
        with m.If(self.draining):
            m.d.sync += self.pair.eq(self.pair + pairs)
            with m.If(self.pair == PAIRS - pairs):
                m.d.sync += [self.pair.eq(0), self.token.eq(following), last_token.eq(following == self.token_count - 1)]
                with m.If(last_token):
                    m.d.sync += [self.turn.eq(self.turn + 1), row.eq(row + BLOCK_ROWS * together)]
                    if many:
                        with m.If(last_turn):
                            m.d.comb += round_ends.eq(1)
                            m.d.sync += self.turn.eq(0)
                    with m.If(last_turn & whole if many else last_turn):
                        m.d.comb += self.drained.eq(1)
                        m.d.sync += [self.turn.eq(0), waiting.bit_select(self.bank, 1).eq(0), self.bank.eq(~self.bank)]
                        with m.If(self.last):
                            m.d.sync += self.finished.eq(1)
        # Rotary index of each port's first pair of the block, below half_head, which a turn's pairs never exceed:
        # head_dim is a multiple of vector_lanes.
        for i, rotary in enumerate(self.rotary):
            first = Signal(9, name=f"first_{i}")
            m.d.comb += rotary.eq(self._below_half_head(first + self.pair))
            with m.If(self.start):
                m.d.sync += first.eq(PAIRS * i)
            with m.Elif(self.draining & (self.pair == PAIRS - pairs) & last_token):
                m.d.sync += first.eq(self._below_half_head(first + PAIRS * together))
        with m.If(self.start):
            m.d.sync += [s.eq(0) for s in (self.bank, self.turn, self.token, self.pair, row, self.finished)]
            m.d.sync += last_token.eq(self.token_count == 1)
        with m.If(self.done):
            m.d.sync += self.finished.eq(0)
        if many:
            self._rounds(m, whole, round_ends)
        return m

    def _last_turn(self, m: Module, whole: Signal) -> Value:
        """Whether no port behind this turn's has a block: which turn that is, is known with the round."""
        together, turns = self.machine.drain_ports, range(self.turns)
        last_of = Array(Signal.like(self.turn, name=f"last_turn_{b}") for b in range(2))
        last = Signal.like(self.turn)
        for turn in turns:
            with m.If(self.round.ports[turn * together]):
                m.d.comb += last.eq(turn)
        with m.If(self.round.done):
            m.d.sync += last_of[self.round.bank].eq(last)
        return self.turn == Mux(whole, last_of[self.bank], turns[-1])

    def _rounds(self, m: Module, whole: Signal, round_ends: Signal) -> None:
        """Which of its bank's rounds the present one is, and whether it is the last."""
        more_of = Array(Signal.like(self.round.more, name=f"more_{b}") for b in range(2))
        own, others = (
            Mux(self.round.done & (self.round.bank == bank), self.round.more, more_of[bank]) for bank in (self.bank, ~self.bank)
        )
        with m.If(self.round.done):
            m.d.sync += more_of[self.round.bank].eq(self.round.more)
        # Known the cycle before
        m.d.sync += whole.eq(Mux(round_ends, Mux(whole, others == 0, self.within + 1 == own), self.within == own))
        with m.If(round_ends):
            m.d.sync += self.within.eq(Mux(whole, 0, self.within + 1))
        with m.If(self.start):
            m.d.sync += self.within.eq(0)

    def _below_half_head(self, value: Value) -> Value:
        return Mux(value >= self.half_head, value - self.half_head, value)[:9]
