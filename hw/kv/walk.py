"""Walks attention in lockstep over all ports: rounds of one entry per port, heads, beats, queries."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data

from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid, registered
from hw.component import Bundle, Component, given, gives
from hw.kv.blocks import Listed, block_of, lowest, several
from hw.kv.phases import Phase
from hw.kv.query import QueryRead, query_depth
from hw.kv.shapes import Heads, HeadShapes
from skipopu.machine import pipeline
from skipopu.machine.config import QUERY_LANES, Machine


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


class Round(Bundle):
    """What all ports do in one cycle of a round of keys or values."""

    def __init__(self, machine: Machine) -> None:
        self.step = gives(KvStep(machine), "what they do, if anything")
        self.first = gives(1, "the round is the phase's first")
        self.sum_number = gives(
            bits_for_index(query_depth(machine)), "number of the step's (head, beat, block) within the entry"
        )
        super().__init__()


class KvWalk(Component):
    """Starts a round when every port has an entry, or when no more are coming; ports without one sit it out.

    The order of rounds depends on memory timing, results do not: maxima and integer sums are the same in any order. A head's
    values wait for its probabilities.

    Latency: 1 cycle from ``pending`` to a round's first step and from ``beats_ready`` to a step, pipeline.told more to what the ports are
    told. Throughput: a step per cycle, pipeline.between_rounds cycles between rounds. Where a port has no beat behind the one it is at, a step
    every other cycle, with pipeline.told one in three of those that take a beat; then two in three where it has one behind and no more.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.phase = given(Phase(), "what attention is at", "{}")
        self.pending = given(machine.ports, "per port: an entry of the phase waits or is worked on")
        self.beats_ready = given(machine.ports, "per port: a beat of its entry is there")
        self.beats_behind = given(machine.ports, "per port: behind that one another")
        if pipeline.told(machine):
            self.beats_further = given(machine.ports, "per port: behind those another")
        self.last_entries = given(1, "no entry will come that is not pending")
        self.weighed = given(1, "the probabilities of the next head of values are there")
        self.heads = given(Heads(machine), "the model's heads")
        self.listed = given(Listed(machine), "blocks of queries")
        self.round = gives(Round(machine), "what the ports do")
        self.active = gives(machine.ports, "ports in the round")
        self.pops = gives(machine.ports, "ports whose beat is used up")
        self.ends = gives(machine.ports, "ports whose entry is")
        self.query = gives(QueryRead(machine), "what the step needs of the queries a cycle later")
        self.head_end = gives(1, "a head's last step, before the ports are told")
        self.round_end = gives(1, "the round's last step, as early")
        self.idle = gives(1, "between rounds")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        heads, listed = self.heads, self.listed
        step, late = Signal(KvStep(self.machine)), pipeline.told(self.machine)
        first, sum_number = Signal(), Signal.like(self.round.sum_number)
        in_phase = self.phase.keys | self.phase.values
        running, active = Signal(), Signal.like(self.active)
        header_left, header_number = Signal.like(heads.header_beats), Signal.like(heads.header_beats)
        kv_head, beat = Signal.like(heads.kv_heads), Signal.like(heads.head_beats)
        block = Signal.like(step.block)
        number_first, word, word_first = (
            Signal.like(step.number),
            Signal.like(self.query.word),
            Signal.like(self.query.word),
        )
        left, some_behind, parity = Signal(QUERY_LANES), Signal(), Signal()
        header, last_block = Signal(), Signal()  # beats of it are left; the block is the last one
        present = block_of(listed, block)
        last_of_entry = Signal()  # the beat is the last head's last one
        # Stable from before a round's start
        keys = delay_valid(m, self.phase.keys, 1, "keys")
        beats, kv_heads, blocks = (
            registered(m, (count - 1)[: len(count)], f"last_{name}")
            for name, count in (("beat", heads.head_beats), ("head", heads.kv_heads), ("block", listed.count))
        )

        def remaining(lanes: Value) -> list[Any]:
            """``lanes`` are left, and whether there are some behind the present one, which ends of all kinds wait for."""
            return [left.eq(lanes), some_behind.eq(several(lanes))]

        # Rounds
        full, some = (
            delay_valid(m, value, late, name) for value, name in ((self.pending.all(), "full"), (self.pending.any(), "some"))
        )
        start = in_phase & ~running & some & (full | self.last_entries)
        entry_end = Signal()
        ended: Value = entry_end
        # The ports know of the last round's end, and what follows from it is known here.
        for k in range(pipeline.between_rounds(self.machine) - 1):
            ended = registered(m, ended, f"ended_{k}")
            start &= ~ended
        m.d.comb += self.idle.eq(~running)
        with m.If(start):
            m.d.sync += [
                running.eq(1),
                active.eq(self.pending),
                header_left.eq(Mux(self.phase.keys, heads.header_beats, 0)),
                header.eq(self.phase.keys & (heads.header_beats != 0)),
                *remaining(block_of(listed, 0).lanes),
                last_block.eq(blocks == 0),
                last_of_entry.eq((beats == 0) & (kv_heads == 0)),
                *(s.eq(0) for s in (header_number, kv_head, beat, block, number_first, word, word_first, sum_number)),
            ]
        # Steps
        # Whether all ports will have a beat in the next cycle; those that would take one now need another, whether they do or not.
        # What the ports take waits for a register of its own, not behind what the step does.
        all_ready, not_ready = Signal(), Signal(init=1)
        ports, takes = self.machine.ports, running & all_ready
        served = self.beats_ready & (self.beats_behind | ~takes.replicate(ports))
        if late:  # and another one for what they were told to take and do not yet know of
            told = delay_valid(m, step.pop, late, "told")
            served &= self.beats_behind | ~told.replicate(ports)
            served &= self.beats_further | ~(takes & told).replicate(ports)
        ready = (Mux(running, active, self.pending) & ~served) == 0
        m.d.sync += [all_ready.eq(ready), not_ready.eq(~ready)]
        may = running & (keys | self.weighed)
        work, may_work = Signal(), Signal()
        following = left & (left - 1)  # lanes behind the present one
        last_lane = keys | ~some_behind
        last_beat = beat == beats
        # All that is known without the ports comes first: these are the last ones known.
        may_end, may_end_entry, may_pop = Signal(), Signal(), Signal()
        m.d.comb += [
            may_work.eq(may & ~header),
            may_end.eq(may_work & last_lane & last_block),
            may_end_entry.eq(may_end & last_of_entry),
            may_pop.eq(may_end | (may & header)),
        ]
        beat_end = may_end & all_ready
        m.d.comb += [
            entry_end.eq(may_end_entry & ~not_ready),
            work.eq(may_work & all_ready),
            step.header.eq(may & header & all_ready),
            step.header_number.eq(header_number),
            step.work.eq(work),
            step.pop.eq(may_pop & ~not_ready),
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
            self.head_end.eq(beat_end & last_beat),
            self.round_end.eq(entry_end),
        ]
        next_block = Signal.like(block)
        m.d.comb += next_block.eq(Mux(last_block, 0, block + 1))
        with m.If(step.header):
            m.d.sync += [
                header_left.eq(header_left - 1),
                header.eq(header_left != 1),
                header_number.eq(header_number + 1),
            ]
        with m.If(work):
            m.d.sync += remaining(following)
            with m.If(last_lane):
                m.d.sync += [
                    block.eq(next_block),
                    last_block.eq(Mux(last_block, blocks == 0, block + 1 == blocks)),
                    *remaining(block_of(listed, next_block).lanes),
                    sum_number.eq(sum_number + 1),
                ]
        with m.If(beat_end):
            m.d.sync += [beat.eq(beat + 1), word.eq(word + 1)]
            m.d.sync += last_of_entry.eq(
                Mux(last_beat, (beats == 0) & (kv_head + 1 == kv_heads), (beat + 1 == beats) & (kv_head == kv_heads))
            )
            with m.If(last_beat):
                m.d.sync += [
                    beat.eq(0),
                    kv_head.eq(kv_head + 1),
                    number_first.eq(number_first + listed.count),
                    word_first.eq(word + 1),
                ]
        with m.If(entry_end):
            m.d.sync += [running.eq(0), first.eq(0), parity.eq(~parity)]
        with m.If(~in_phase):
            m.d.sync += [first.eq(1), parity.eq(0)]
        m.d.comb += [
            self.round.step.eq(delay_valid(m, step, late, "step")),
            self.pops.eq(delay_valid(m, active & step.pop.replicate(ports), late, "pops")),
            self.ends.eq(delay_valid(m, active & step.entry_end.replicate(ports), late, "ends")),
            *(
                to.eq(delay(m, value, late, name))
                for to, value, name in (
                    (self.active, active, "active"),
                    (self.round.first, first, "first"),
                    (self.round.sum_number, sum_number, "sum_number"),
                    (self.query.word, present.base + word, "query_word"),
                    (self.query.head, present.base + word_first, "query_head"),
                )
            ),
        ]
        return m
