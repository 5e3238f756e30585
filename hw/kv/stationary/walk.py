"""Walks attention of a stationary array in lockstep over all ports: rounds of entries, heads, beats, queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data

from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid, registered, tree
from hw.component import Component, given, gives
from hw.kv.blocks import Listed, block_of, lowest
from hw.kv.phases import Phase
from hw.kv.query import QueryRead, query_depth
from hw.kv.shapes import Heads, HeadShapes
from hw.kv.stationary.held import Progress
from hw.pe.stationary.slice import Beat, StationarySlice
from skipopu.machine.config import ENTRIES_AT_ONCE, ENTRIES_HELD, QUERY_LANES, TOGETHER, Machine

VALID = ("header", "work")  # fields of a step that count by themselves
ENDS = ("block", "beat", "head", "entries")  # what a step may be the last one of


class HeldStep(data.StructLayout):
    """What all ports do with a beat, a cycle behind its address.

    header: keep a beat of the entry's header. work: multiply, by the queries of a block. first_beat: of
    the head. lanes, slots: of the block. number: kv_head * blocks + block. number_first: the same for the head's first block. round:
    number of the entry's round of probabilities, modulo its range.
    """

    def __init__(self, machine: Machine) -> None:
        number, shapes = bits_for_index(query_depth(machine)), HeadShapes(machine)
        super().__init__(
            {
                "header": 1,
                "header_number": shapes.header_beats,
                "work": 1,
                "kv_head": shapes.kv_heads,
                "first_beat": 1,
                "lanes": QUERY_LANES,
                "slots": data.ArrayLayout(bits_for_index(machine.tokens), QUERY_LANES),
                "number": number,
                "number_first": number,
                "round": range(ENTRIES_HELD),
            }
        )


class Taken(data.StructLayout):
    """What is taken out of all ports' multipliers: a query's sums.

    begin: the first query of a block. valid: there is one. lane: which of the block's four. first: its round is the phase's first. number:
    kv_head * blocks + block. sum_number: number of (head, beat, block) within the entry.
    """

    def __init__(self, machine: Machine) -> None:
        number = bits_for_index(query_depth(machine))
        super().__init__({"begin": 1, "valid": 1, "lane": 2, "first": 1, "number": number, "sum_number": number})


class HeldWalk(Component):
    """A round is one entry of each port, for values up to ``ENTRIES_AT_ONCE``; it starts when every port has as many, or when no more are coming.

    Keys: heads, blocks of queries, beats, over which a multiplier adds up. Values: heads, beats, blocks, entries, over which it adds up. Then the
    block's queries are taken out, one per cycle; the next sum's last step waits until they are. Ports without an entry sit it out. The order
    of rounds depends on memory timing, results do not.

    Latency: 1 cycle from ``pending`` to a round's first step, none from ``there`` to a step's address, 1 from there to ``step`` and ``query``,
    ``StationarySlice.PUT_ASIDE`` from a sum's last address to its first query. Throughput: a step per cycle, a cycle between rounds,
    two in front of one of values with several entries.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        ports = range(machine.ports)
        self.phase = given(Phase(), "what attention is at", "{}")
        self.most = given(TOGETHER, "logarithm of the most entries of a round of values")
        self.pending = [
            given(ENTRIES_AT_ONCE, f"bit k: more than k entries of the phase waited in port {p} a cycle before") for p in ports
        ]
        self.there = given(machine.ports, "per port: the beat needed is kept")
        self.last_entries = given(1, "no entry will come that is not pending")
        self.written = given(1, "a head's probabilities are in memory, one cycle")
        self.heads = given(Heads(machine), "the model's heads")
        self.listed = given(Listed(machine), "blocks of queries")
        self.progress = gives(Progress(), "to the ports", "{}")
        self.beat = gives(Beat(machine), "what is multiplied")
        self.step = gives(HeldStep(machine), "what the ports do with it, a cycle later")
        self.active = gives(machine.ports, "ports that do, with the step")
        self.query = gives(QueryRead(machine), "what the step needs of the queries a cycle later")
        self.taken = gives(Taken(machine), "what is taken out")
        self.ended = gives(range(ENTRIES_AT_ONCE + 1), "entries of the round of values that ends, for one cycle")
        self.working = gives(1, "a step")
        self.weighed = gives(1, "values may be multiplied")
        self.idle = gives(1, "between rounds")
        self.waits = gives(1, "an entry of the phase waits for a round")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        heads, listed, progress, values = self.heads, self.listed, self.progress, self.phase.values
        in_phase = self.phase.keys | values
        running, first_round = Signal(), Signal()
        at, again = Signal.like(progress.needed), Signal.like(progress.needed)  # the beat; where the next block's begins
        header_left, header_number = Signal.like(heads.header_beats), Signal.like(heads.header_beats)
        kv_head, beat, block = (
            Signal.like(heads.kv_heads),
            Signal.like(heads.head_beats),
            Signal(bits_for_index(listed.blocks.shape().length)),
        )
        entry, last_entry = Signal(range(ENTRIES_AT_ONCE)), Signal(range(ENTRIES_AT_ONCE))
        number = bits_for_index(query_depth(self.machine))
        number_first, sum_first, sum_number = (Signal(number, name=n) for n in ("number_first", "sum_first", "sum_number"))
        word, word_first = Signal.like(self.query.word), Signal.like(self.query.word)
        present = block_of(listed, block)

        here = Signal(self.machine.ports)  # ports that have the present entry of the round

        # Rounds
        together = Signal(TOGETHER)
        m.d.comb += [together.eq(Mux(values, self.most, 0)), progress.together.eq(together)]
        among = [k < (1 << together) for k in range(ENTRIES_AT_ONCE)]
        some = [Cat(port[k] for port in self.pending) & among[k].replicate(self.machine.ports) for k in range(ENTRIES_AT_ONCE)]
        active = [Signal(self.machine.ports, name=f"active_{k}") for k in range(ENTRIES_AT_ONCE)]
        full = Cat(~wanted | pending.all() for wanted, pending in zip(among, some, strict=True)).all()
        round_first, finished = Signal(range(ENTRIES_HELD)), Signal.like(progress.finished)
        m.d.comb += [
            progress.begin.eq(in_phase & ~running & some[0].any() & (full | self.last_entries)),
            progress.needed.eq(at),
            progress.finished.eq(finished),
            self.idle.eq(~running),
            self.waits.eq(some[0].any()),
        ]
        with m.If(progress.begin):
            m.d.sync += [
                running.eq(1),
                *(own.eq(pending) for own, pending in zip(active, some, strict=True)),
                last_entry.eq(Mux(some[3].any(), 3, Mux(some[2].any(), 2, some[1].any()))),
                header_left.eq(Mux(values, 0, heads.header_beats)),
                again.eq(at),
                here.eq(some[0]),
                *(
                    s.eq(0)
                    for s in (header_number, kv_head, beat, block, entry, number_first, sum_first, sum_number, word, word_first)
                ),
            ]

        # Steps
        hold = Signal(range(QUERY_LANES))
        # Counts are stable from before a round's start.
        last_beat, last_block, last_head = (
            present == registered(m, (count - 1)[: len(present)], f"last_{name}")
            for name, present, count in (
                ("beat", beat, heads.head_beats),
                ("block", block, listed.count),
                ("head", kv_head, heads.kv_heads),
            )
        )
        header, sum_first_step = header_left != 0, Mux(values, entry == 0, beat == 0)
        sum_end = Mux(values, entry == last_entry, last_beat)
        # All that is known without the ports comes first.
        all_there, may_head, may_work = Signal(), Signal(), Signal()
        may_end_block, may_end_beat, may_end_head, may_end = (Signal(name=f"may_end_{name}") for name in ENDS)
        may = running & (self.phase.keys | self.weighed)
        m.d.comb += [
            all_there.eq((here & ~self.there) == 0),
            may_head.eq(may & header),
            may_work.eq(may & ~header & (~sum_end | (hold == 0))),
            may_end_block.eq(may_work & sum_end),
            may_end_beat.eq(may_end_block & last_block),  # of keys: the head's last one
            may_end_head.eq(may_end_beat & (self.phase.keys | last_beat)),
            may_end.eq(may_end_head & last_head),
        ]
        head, work = may_head & all_there, may_work & all_there
        block_end, beat_end, head_end, end = (each & all_there for each in (may_end_block, may_end_beat, may_end_head, may_end))
        following, following_entry = Signal.like(at), Signal.like(entry)
        m.d.comb += [
            following.eq(at + 1),
            following_entry.eq(entry + 1),
            self.working.eq((may_head | may_work) & all_there),
            self.beat.product.eq(work),
            self.beat.address.eq(at),
            self.beat.first.eq(sum_first_step),
            self.beat.last.eq(sum_end),
            self.ended.eq(Mux(end & values, last_entry + 1, 0)),
        ]
        with m.If(head):
            m.d.sync += [
                header_left.eq(header_left - 1),
                header_number.eq(header_number + 1),
                at.eq(following),
                again.eq(following),
            ]
        with m.If(hold != 0):
            m.d.sync += hold.eq(hold - 1)
        with m.If(work):
            m.d.sync += here.eq(active[0])
            with m.If(values):
                m.d.sync += [entry.eq(entry + 1), here.eq(Array(active)[following_entry]), at.eq(at + heads.kv_words)]
            with m.Else():
                m.d.sync += [beat.eq(beat + 1), at.eq(following), word.eq(word + 1)]
            with m.If(sum_end):
                m.d.sync += [
                    hold.eq(tree(list(present.lanes), lambda a, b: a + b) - 1),
                    block.eq(Mux(last_block, 0, block + 1)),
                    sum_number.eq(sum_number + 1),
                    at.eq(again),
                    entry.eq(0),
                    here.eq(active[0]),
                ]
                with m.If(self.phase.keys):
                    m.d.sync += [beat.eq(0), word.eq(word_first)]
        with m.If(beat_end):
            m.d.sync += [
                word.eq(word + 1),
                again.eq(Mux(values, again + 1, following)),
                at.eq(Mux(values, again + 1, following)),
            ]
            with m.If(values):
                m.d.sync += beat.eq(Mux(last_beat, 0, beat + 1))
            with m.If(self.phase.keys | (together == 0) | end):
                m.d.sync += progress.freed.eq(following)
        with m.If(head_end):
            m.d.sync += [kv_head.eq(kv_head + 1), number_first.eq(number_first + listed.count), word_first.eq(word + 1)]
        with m.If(end):
            m.d.sync += [
                running.eq(0),
                first_round.eq(0),
                round_first.eq(round_first + last_entry + 1),
                finished.eq(finished + last_entry + 1),
                at.eq(following),
            ]
        with m.If(~in_phase):
            m.d.sync += [first_round.eq(1), *(s.eq(0) for s in (round_first, finished, at, progress.freed, hold))]
        self._weigh(m, head_end & values, last_entry)
        self._tell(
            m,
            {
                "header": head,
                "header_number": header_number,
                "work": work,
                "kv_head": kv_head,
                "first_beat": beat == 0,
                "lanes": present.lanes,
                "slots": present.slots,
                "number": number_first + block,
                "number_first": number_first,
                "round": round_first + entry,
            },
            (here, finished + entry, present.base + word, present.base + word_first),
        )
        self._take(m, block_end, present.lanes, Cat(first_round, (number_first + block)[: number.width], sum_number))
        return m

    def _weigh(self, m: Module, head_end: Value, last_entry: Signal) -> None:
        """A head of a round's values waits for its last entry's probabilities, which are made entry by entry.

        Counted are heads that are ready beyond those in front of the present head's last entry: once a round's last entry is known,
        those of the entries before it are left out.
        """
        heads = self.heads.kv_heads
        before, ahead = Signal(len(heads) + 2), Signal(signed(len(heads) + ENTRIES_HELD.bit_length() + 1))
        following, begun = Signal.like(ahead), delay_valid(m, self.progress.begin, 1, "begun")
        there = Signal()
        m.d.comb += [
            before.eq((heads & last_entry[0].replicate(len(heads))) + ((heads & last_entry[1].replicate(len(heads))) << 1)),
            following.eq(ahead + self.written - head_end - Mux(begun, before, 0)),
            self.weighed.eq(there & (~begun | (last_entry == 0))),
        ]
        m.d.sync += [ahead.eq(following), there.eq(following > 0)]
        with m.If(~self.phase.values):
            m.d.sync += [ahead.eq(0), there.eq(0)]

    def _tell(self, m: Module, step: dict[str, Any], others: Sequence[Value]) -> None:
        """The ports, a cycle behind a beat's address: what they do; which of them, the entry, the word of the queries and its head's first."""
        m.d.comb += [
            self.step[name].eq(delay_valid(m, value, 1, f"step_{name}")) for name, value in step.items() if name in VALID
        ]
        rest = {name: value for name, value in step.items() if name not in VALID}
        m.d.comb += [self.step[name].eq(delay(m, value, 1, f"step_{name}")) for name, value in rest.items()]
        told = (self.active, self.progress.entry, self.query.word, self.query.head)
        m.d.comb += [own.eq(delay(m, value[: len(own)], 1, "told")) for own, value in zip(told, others, strict=True)]

    def _take(self, m: Module, last: Value, lanes: Value, about: Value) -> None:
        """The queries of a block whose sums are complete, from PUT_ASIDE cycles behind the last step."""
        at, taken = StationarySlice.PUT_ASIDE, self.taken
        begin = delay_valid(m, last, at, "taken")
        left, kept = Signal(QUERY_LANES), Signal.like(Value.cast(about), name="kept")
        present = Mux(begin, delay(m, lanes, at, "taken_lanes"), left)
        known = Mux(begin, delay(m, about, at, "taken_about"), kept)
        m.d.sync += [left.eq(present & (present - 1)), kept.eq(known)]
        m.d.comb += [
            taken.begin.eq(begin),
            taken.valid.eq(present.any()),
            taken.lane.eq(lowest(present)),
            Cat(taken.first, taken.number, taken.sum_number).eq(known),
        ]
