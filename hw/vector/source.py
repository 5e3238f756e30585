"""Whose results the aligner aligns."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value

from hw.arithmetic.pipeline import round_to
from hw.component import Bundle, Component, given, gives
from hw.memory.buffer import WordWrite
from hw.widths import GROUP_BITS, OFFSET_BITS
from skipopu.isa.spec import AlignTarget, Unit
from skipopu.machine.config import Machine


class Results(Bundle):
    """A running instruction's results, seen from its unit."""

    def __init__(self, machine: Machine) -> None:
        self.active = gives(1, "the instruction runs")
        self.target = gives(2, "where they are aligned to, an AlignTarget")
        self.mask = gives(machine.tokens, "its slots")
        self.finish = gives(1, "level: everything is written")
        super().__init__()


class AlignSource(Component):
    """Follows the writes of whoever's instruction aligns; dependence tokens see to it that no two do at once.

    Latency: 1 cycle from ``active`` to who is followed, none to ``finish`` and from a write. Throughput: a write per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.product = given(Results(machine), "MATMUL", "product_{}")
        self.attention = given(Results(machine), "ATTEND", "attention_{}")
        self.embedding = given(Results(machine), "EMBED", "embedding_{}")
        self.scan = given(Results(machine), "ALIGN", "scan_{}")
        self.adjusted = given(Results(machine), "ADJUST", "adjusted_{}") if machine.adjust else None
        self.group = given(GROUP_BITS, "elements per group of weights")
        self.head_dim = given(GROUP_BITS, "elements of a head")
        self.written_valid = given(1, "the buffer is written")
        self.written_by = given(2, "by which unit")
        self.written = given(WordWrite(machine), "that write")
        self.shown_valid = given(1, "ALIGN shows a word of the buffer")
        self.shown = given(WordWrite(machine), "that word")
        self.target = gives(2, "of the instruction that is followed, an AlignTarget")
        self.unit = gives(2, "who executes it, as in ``written_by``")
        self.mask = gives(machine.tokens, "its slots")
        self.finish = gives(1, "level: everything is written")
        self.queries = gives(1, "queries are aligned, in groups of a head; else activations")
        self.elements = gives(GROUP_BITS, "elements per group")
        self.padded = gives(OFFSET_BITS, "elements that a group takes in its memory")
        self.write_valid = gives(1, "a word to align")
        self.write = gives(WordWrite(machine), "that word")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        waiting: Value = Const(0, 1)
        target, shows = Signal(2), Signal()
        m.d.sync += [self.target.eq(target), shows.eq(self.scan.active)]
        for results, unit in (
            (self.product, Unit.ARRAY),
            (self.attention, Unit.ATTENTION),
            (self.embedding, Unit.VECTOR),
            (self.scan, Unit.VECTOR),
            *([] if self.adjusted is None else [(self.adjusted, Unit.VECTOR)]),
        ):
            chosen = results.active & (results.target != AlignTarget.NONE) & ~waiting
            with m.If(chosen):
                m.d.comb += target.eq(results.target)
                m.d.sync += [self.unit.eq(unit), self.mask.eq(results.mask)]
            with m.If(results.finish):
                m.d.comb += self.finish.eq(1)
            waiting = waiting | chosen
        m.d.comb += self.queries.eq(self.target == AlignTarget.QUERY)
        with m.If(self.queries):
            m.d.comb += [self.elements.eq(self.head_dim), self.padded.eq(round_to(self.head_dim, self.machine.kv_lanes))]
        with m.Else():
            m.d.comb += [self.elements.eq(self.group), self.padded.eq(self.group)]
        follows = self.written_valid & (self.written_by == self.unit)
        m.d.comb += [
            self.write_valid.eq((self.target != AlignTarget.NONE) & Mux(shows, self.shown_valid, follows)),
            self.write.eq(Mux(shows, self.shown, self.written)),
        ]
        return m
