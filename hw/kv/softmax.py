"""Walks the probabilities of attention in lockstep over all ports, ahead of the values that they weigh."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data

from hw.arithmetic.pipeline import bits_for_index, count_shape, delay, delay_valid, registered
from hw.component import Bundle, Component, given, gives
from hw.kv.blocks import Listed, block_of, lowest, several
from hw.kv.query import query_depth
from hw.kv.shapes import Heads
from skipopu.machine import pipeline
from skipopu.machine.config import ENTRIES_AT_ONCE, ENTRIES_HELD, QUERY_LANES, TOGETHER, Machine


def rounds_kept(machine: Machine) -> range:
    """Of rounds whose probabilities are kept: of entries, two for each whose values are added up."""
    return range(ENTRIES_HELD if machine.stationary else 2)


class SoftmaxStep(data.StructLayout):
    """One probability per port in one cycle: of a lane of query word ``number``; the fields are those of :class:`hw.kv.walk.KvStep`."""

    def __init__(self, machine: Machine) -> None:
        number = bits_for_index(query_depth(machine))
        super().__init__(
            {"work": 1, "entry_end": 1, "lane": 2, "number": number, "number_first": number, "parity": rounds_kept(machine)}
        )


class SoftmaxRound(Bundle):
    """What all ports do in one cycle of a round of probabilities."""

    def __init__(self, machine: Machine) -> None:
        self.step = gives(SoftmaxStep(machine), "what they do, if anything")
        self.first = gives(1, "the round is the phase's first")
        super().__init__()


class SoftmaxWalk(Component):
    """Rounds of probabilities, up to two ahead of the values' rounds that use them (one at a time when ``serial``).

    In a stationary array a round of values may be several of these; its walk counts the heads that are there.

    Latency: 1 cycle from ``chosen`` to a round's first step, pipeline.told more of each from and to several ports, 1 from ``written`` to
    ``weighed``. Throughput: a step per cycle, pipeline.between_rounds cycles between rounds, one more where a port has no more entries.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.values = given(1, "the phase of values, level")
        self.serial = given(1, "a round waits for the values of the one before it")
        self.left = given(machine.ports, "per port: entries are without probabilities")
        self.chosen = given(machine.ports, "per port: it is settled which of them is next")
        self.heads = given(Heads(machine), "the model's heads")
        self.listed = given(Listed(machine), "blocks of queries")
        if machine.stationary:
            self.together = given(TOGETHER, "logarithm of the most entries of a round of values")
            self.ended = given(range(ENTRIES_AT_ONCE + 1), "entries of the round of values that ends, for one cycle")
        else:
            self.written = given(1, "a head's probabilities are in memory, one cycle")
            self.head_end = given(1, "a head's last step of values")
            self.round_end = given(1, "a round's last step of values")
        self.round = gives(SoftmaxRound(machine), "what the ports do")
        self.head_weighed = gives(1, "a head's last step, before the ports are told")
        self.active = gives(machine.ports, "ports in the round")
        if not machine.stationary:
            self.weighed = gives(1, "the next head of values has its probabilities")
        self.idle = gives(1, "between rounds")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        heads, listed, late = self.heads, self.listed, pipeline.told(self.machine)
        step, first = Signal(SoftmaxStep(self.machine)), Signal()
        running, active, parity = Signal(), Signal.like(self.active), Signal(rounds_kept(self.machine))
        kv_head, block, left = (
            Signal.like(heads.kv_heads),
            Signal(bits_for_index(listed.blocks.shape().length)),
            Signal(QUERY_LANES),
        )
        number_first = Signal.like(step.number)
        # Rounds started here and not ended there; heads written here and not ended there.
        held = self.machine.stationary
        under_way, ready = Signal(count_shape(len(rounds_kept(self.machine)))), Signal(len(heads.kv_heads) + 1)
        settled = delay_valid(m, self.left.any() & ((self.left & ~self.chosen) == 0), late, "settled")
        most, ended = (2 << self.together, self.ended) if held else (2, self.round_end)
        start = self.values & ~running & settled & Mux(self.serial, under_way == 0, under_way < most)
        over: Value = step.entry_end
        # The ports know of the last round's end, and what follows from it is known here.
        for k in range(pipeline.between_rounds(self.machine) - 1):
            over = registered(m, over, f"over_{k}")
            start &= ~over
        following = left & (left - 1)
        last_lane = ~several(left)
        # Stable from before a round's start
        blocks, kv_heads = (
            registered(m, (count - 1)[: len(count)], f"last_{name}")
            for name, count in (("block", listed.count), ("head", heads.kv_heads))
        )
        last_block, last_head = block == blocks, kv_head == kv_heads
        next_block = Signal.like(block)
        m.d.comb += [
            next_block.eq(Mux(last_block, 0, block + 1)),
            self.active.eq(delay(m, active, late, "active")),
            self.round.step.eq(delay_valid(m, step, late, "step")),
            self.round.first.eq(delay(m, first, late, "first")),
            self.idle.eq(~running),
            self.head_weighed.eq(running & last_lane & last_block),
            step.work.eq(running),
            step.entry_end.eq(running & last_lane & last_block & last_head),
            step.lane.eq(lowest(left)),
            step.number.eq(number_first + block),
            step.number_first.eq(number_first),
            step.parity.eq(parity),
        ]
        m.d.sync += under_way.eq(under_way + start - ended)
        if not held:
            ended_head = registered(m, self.head_end, "ended_head")  # counted a cycle late
            m.d.sync += [
                ready.eq(ready + self.written - ended_head),
                self.weighed.eq(
                    self.written | Mux(self.head_end, ready > Mux(ended_head, 2, 1), ready > Mux(ended_head, 1, 0))
                ),
            ]
        with m.If(start):
            m.d.sync += [
                running.eq(1),
                active.eq(self.left),
                left.eq(block_of(listed, 0).lanes),
                *(s.eq(0) for s in (kv_head, block, number_first)),
            ]
        with m.Elif(running):
            m.d.sync += left.eq(following)
            with m.If(last_lane):
                m.d.sync += [block.eq(next_block), left.eq(block_of(listed, next_block).lanes)]
                with m.If(last_block):
                    m.d.sync += [kv_head.eq(kv_head + 1), number_first.eq(number_first + listed.count)]
        with m.If(step.entry_end):
            m.d.sync += [running.eq(0), first.eq(0), parity.eq(parity + 1 if held else ~parity)]
        with m.If(~self.values):
            m.d.sync += [s.eq(0) for s in (under_way, ready, parity, *([] if held else [self.weighed]))]
            m.d.sync += first.eq(1)
        return m
