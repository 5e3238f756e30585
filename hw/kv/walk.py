"""Walks attention in lockstep over all ports: rounds of one entry per port, heads, beats, queries; probabilities beside it."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data

from hw.arithmetic.pipeline import bits_for_index, count_shape
from hw.component import Component, given, gives
from hw.kv.phases import Phase
from hw.kv.query import query_depth
from hw.kv.shapes import HeadShapes
from skipopu.machine.config import QUERY_LANES, Machine


class Block(data.StructLayout):
    """Four queries of every KV head. lanes: which exist. base: of their words in the query memory."""

    def __init__(self, machine: Machine) -> None:
        slot = bits_for_index(machine.tokens)
        super().__init__(
            {"lanes": QUERY_LANES, "base": bits_for_index(query_depth(machine)), "slots": data.ArrayLayout(slot, QUERY_LANES)}
        )


class KvStep(data.StructLayout):
    """What all ports do in one cycle.

    header: take a beat of the entry's header. work: one step of the phase, on ``block`` of ``kv_head``; with keys all lanes
    of the block at once, otherwise ``lane``. pop: the beat is used up. entry_end: so is the entry. first_beat, last_beat: of
    the head. number: kv_head * blocks + block. number_first: the same for the head's first block. parity: of the round.
    """

    def __init__(self, machine: Machine) -> None:
        number, shapes = bits_for_index(query_depth(machine)), HeadShapes(machine)
        super().__init__(
            {
                "header": 1,
                "header_number": shapes.header_beats,
                "work": 1,
                "pop": 1,
                "entry_end": 1,
                "kv_head": shapes.kv_heads,
                "block": bits_for_index(shapes.blocks),
                "lanes": QUERY_LANES,
                "slots": data.ArrayLayout(bits_for_index(machine.tokens), QUERY_LANES),
                "lane": 2,
                "first_beat": 1,
                "last_beat": 1,
                "number": number,
                "number_first": number,
                "parity": 1,
            }
        )


class SoftmaxStep(data.StructLayout):
    """One probability per port in one cycle: of a lane of query word ``number``; the fields are those of :class:`KvStep`."""

    def __init__(self, machine: Machine) -> None:
        number = bits_for_index(query_depth(machine))
        super().__init__({"work": 1, "entry_end": 1, "lane": 2, "number": number, "number_first": number, "parity": 1})


def lowest(mask: Signal) -> Mux:
    """Index of the lowest set bit of four."""
    return Mux(mask[0], 0, Mux(mask[1], 1, Mux(mask[2], 2, 3)))


class KvWalk(Component):
    """Starts a round when every port has an entry, or when no more are coming; ports without one sit it out.

    The order of rounds depends on memory timing, results do not: maxima and integer sums are the same in any order. A head's
    values wait for its probabilities.

    Latency: 1 cycle from ``pending`` to a round's first step, none from ``beats_ready`` to a step. Throughput: a step per cycle, a
    cycle between rounds.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        shapes = HeadShapes(machine)
        self.blocks = shapes.blocks
        address = bits_for_index(query_depth(machine))
        self.phase = given(Phase(), "phase", "{}")
        self.pending = given(machine.ports, "per port: an entry of the phase waits or is worked on")
        self.beats_ready = given(machine.ports, "per port: its next beat is there")
        self.last_entries = given(1, "no entry will come that is not pending")
        self.weighed = given(1, "the probabilities of the next head of values are there")
        self.kv_heads = given(shapes.kv_heads, "KV heads")
        self.head_beats = given(shapes.head_beats, "beats of a head")
        self.header_beats = given(shapes.header_beats, "beats of an entry's header")
        self.block_count = given(count_shape(self.blocks), "blocks of queries per KV head")
        self.block = [given(Block(machine), f"block {k}") for k in range(self.blocks)]
        self.step = gives(KvStep(machine), "what the ports do")
        self.active = gives(machine.ports, "ports in the round")
        self.query_address = gives(address, "word of the query memory that the step needs a cycle later")
        self.exponent_address = gives(address, "the first word of its head")
        self.sum_number = gives(address, "number of (head, beat, block) within the entry")
        self.first_round = gives(1, "the round is the phase's first")
        self.head_end = gives(1, "a head's last step")
        self.round_end = gives(1, "the round's last step")
        self.idle = gives(1, "between rounds")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        step = self.step
        layout = Block(self.machine)
        in_phase = self.phase.keys | self.phase.values
        running, active = Signal(), Signal.like(self.active)
        header_left, header_number = Signal.like(self.header_beats), Signal.like(self.header_beats)
        kv_head, beat = Signal.like(self.kv_heads), Signal.like(self.head_beats)
        block = Signal(bits_for_index(self.blocks))
        number_first, word, word_first = (
            Signal.like(step.number),
            Signal.like(self.query_address),
            Signal.like(self.query_address),
        )
        left, parity = Signal(QUERY_LANES), Signal()
        table = Array(block.as_value() for block in self.block)
        present = layout(table[block])

        # Rounds
        full = self.pending.all()
        start = in_phase & ~running & self.pending.any() & (full | self.last_entries)
        m.d.comb += [self.active.eq(active), self.idle.eq(~running)]
        with m.If(start):
            m.d.sync += [
                running.eq(1),
                active.eq(self.pending),
                header_left.eq(Mux(self.phase.keys, self.header_beats, 0)),
                left.eq(layout(table[0]).lanes),
                *(s.eq(0) for s in (header_number, kv_head, beat, block, number_first, word, word_first, self.sum_number)),
            ]
        # Steps
        ready = running & ((active & ~self.beats_ready) == 0) & (self.phase.keys | self.weighed)
        header = header_left != 0
        work = Signal()
        following = left & (left - 1)  # lanes behind the present one
        last_lane = self.phase.keys | ~following[:QUERY_LANES].any()
        last_block = block == self.block_count - 1
        last_beat = beat == self.head_beats - 1
        last_head = kv_head == self.kv_heads - 1
        beat_end = work & last_lane & last_block
        entry_end = beat_end & last_beat & last_head
        m.d.comb += [
            work.eq(ready & ~header),
            step.header.eq(ready & header),
            step.header_number.eq(header_number),
            step.work.eq(work),
            step.pop.eq(step.header | beat_end),
            step.entry_end.eq(entry_end),
            step.kv_head.eq(kv_head),
            step.block.eq(block),
            step.lanes.eq(present.lanes),
            step.slots.eq(present.slots),
            step.lane.eq(lowest(left)),
            step.first_beat.eq(beat == 0),
            step.last_beat.eq(last_beat),
            step.number.eq(number_first + block),
            step.number_first.eq(number_first),
            step.parity.eq(parity),
            self.query_address.eq(present.base + word),
            self.exponent_address.eq(present.base + word_first),
            self.head_end.eq(beat_end & last_beat),
            self.round_end.eq(entry_end),
        ]
        next_block = Signal.like(block)
        m.d.comb += next_block.eq(Mux(last_block, 0, block + 1))
        with m.If(step.header):
            m.d.sync += [header_left.eq(header_left - 1), header_number.eq(header_number + 1)]
        with m.If(work):
            m.d.sync += left.eq(following)
            with m.If(last_lane):
                m.d.sync += [
                    block.eq(next_block),
                    left.eq(layout(table[next_block]).lanes),
                    self.sum_number.eq(self.sum_number + 1),
                ]
        with m.If(beat_end):
            m.d.sync += [beat.eq(beat + 1), word.eq(word + 1)]
            with m.If(last_beat):
                m.d.sync += [
                    beat.eq(0),
                    kv_head.eq(kv_head + 1),
                    number_first.eq(number_first + self.block_count),
                    word_first.eq(word + 1),
                ]
        with m.If(entry_end):
            m.d.sync += [running.eq(0), self.first_round.eq(0), parity.eq(~parity)]
        with m.If(~in_phase):
            m.d.sync += [self.first_round.eq(1), parity.eq(0)]
        return m


class SoftmaxWalk(Component):
    """Rounds of probabilities, up to two ahead of the values' rounds that use them (one at a time when ``serial``).

    Latency: 1 cycle from ``chosen`` to a round's first step, 1 from ``written`` to ``weighed``. Throughput: a step per cycle, a
    cycle between rounds.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        shapes = HeadShapes(machine)
        self.blocks = shapes.blocks
        self.values = given(1, "the phase of values, level")
        self.serial = given(1, "a round waits for the values of the one before it")
        self.left = given(machine.ports, "per port: entries are without probabilities")
        self.chosen = given(machine.ports, "per port: it is settled which of them is next")
        self.kv_heads = given(shapes.kv_heads, "KV heads")
        self.block_count = given(count_shape(self.blocks), "blocks of queries per KV head")
        self.block = [given(Block(machine), f"block {k}") for k in range(self.blocks)]
        self.written = given(1, "a head's probabilities are in memory, one cycle")
        self.head_end = given(1, "a head's last step of values")
        self.round_end = given(1, "a round's last step of values")
        self.step = gives(SoftmaxStep(machine), "what the ports do")
        self.head_weighed = gives(1, "a head's last step")
        self.active = gives(machine.ports, "ports in the round")
        self.weighed = gives(1, "the next head of values has its probabilities")
        self.first_round = gives(1, "the round is the phase's first")
        self.idle = gives(1, "between rounds")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        step, layout = self.step, Block(self.machine)
        running, active, parity = Signal(), Signal.like(self.active), Signal()
        kv_head, block, left = Signal.like(self.kv_heads), Signal(bits_for_index(self.blocks)), Signal(QUERY_LANES)
        number_first = Signal.like(step.number)
        table = Array(block.as_value() for block in self.block)
        # Rounds started here and not ended there; heads written here and not ended there.
        under_way, ready = Signal(2), Signal(len(self.kv_heads) + 1)
        settled = self.left.any() & ((self.left & ~self.chosen) == 0)
        start = self.values & ~running & settled & Mux(self.serial, under_way == 0, under_way < 2)
        following = left & (left - 1)
        last_lane = ~following[:QUERY_LANES].any()
        last_block, last_head = block == self.block_count - 1, kv_head == self.kv_heads - 1
        next_block = Signal.like(block)
        m.d.comb += [
            next_block.eq(Mux(last_block, 0, block + 1)),
            self.active.eq(active),
            self.idle.eq(~running),
            self.weighed.eq(ready != 0),
            self.head_weighed.eq(running & last_lane & last_block),
            step.work.eq(running),
            step.entry_end.eq(running & last_lane & last_block & last_head),
            step.lane.eq(lowest(left)),
            step.number.eq(number_first + block),
            step.number_first.eq(number_first),
            step.parity.eq(parity),
        ]
        m.d.sync += [under_way.eq(under_way + start - self.round_end), ready.eq(ready + self.written - self.head_end)]
        with m.If(start):
            m.d.sync += [
                running.eq(1),
                active.eq(self.left),
                left.eq(layout(table[0]).lanes),
                *(s.eq(0) for s in (kv_head, block, number_first)),
            ]
        with m.Elif(running):
            m.d.sync += left.eq(following)
            with m.If(last_lane):
                m.d.sync += [block.eq(next_block), left.eq(layout(table[next_block]).lanes)]
                with m.If(last_block):
                    m.d.sync += [kv_head.eq(kv_head + 1), number_first.eq(number_first + self.block_count)]
        with m.If(step.entry_end):
            m.d.sync += [running.eq(0), self.first_round.eq(0), parity.eq(~parity)]
        with m.If(~self.values):
            m.d.sync += [s.eq(0) for s in (under_way, ready, parity)]
            m.d.sync += self.first_round.eq(1)
        return m
