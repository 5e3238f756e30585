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
from hw.kv.stationary.held import MORE, Progress
from hw.pe.stationary.slice import Beat, StationarySlice
from skipopu.machine import pipeline
from skipopu.machine.config import BEATS_HELD, ENTRIES_AT_ONCE, ENTRIES_HELD, QUERY_LANES, TOGETHER, Machine

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

    How many beats all ports keep is counted here: every pipeline.answered cycles those that all have beyond the last. A step waits for that count
    alone, not for the ports.

    Latency: 2 cycles from ``pending`` to a round's first step, 1 from ``more`` to a step's address, pipeline.told more to what the ports are told;
    1 from an address to its ``step`` and ``query``, ``StationarySlice.PUT_ASIDE`` from a sum's last address to its first query. Throughput: a
    step per cycle, a cycle between rounds, two in front of one of values with several entries; a round pipeline.answered + 1 cycles
    behind the one before at least, the first one as many behind its phase's begin.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        ports = range(machine.ports)
        self.phase = given(Phase(), "what attention is at", "{}")
        self.most = given(TOGETHER, "logarithm of the most entries of a round of values")
        self.pending = [
            given(ENTRIES_AT_ONCE, f"bit k: more than k entries of the phase waited in port {p} a cycle before") for p in ports
        ]
        self.more = [
            given(MORE, f"bit k: port {p} keeps more than k beats beyond those known, or no more will come") for p in ports
        ]
        self.last_entries = given(1, "no entry will come that is not pending")
        self.written = given(1, "a head's probabilities are in memory, one cycle")
        self.heads = given(Heads(machine), "the model's heads")
        self.listed = given(Listed(machine), "blocks of queries")
        self.progress = gives(Progress(), "to the ports", "{}")
        self.beat = gives(Beat(machine), "what is multiplied; a step's address")
        self.step = gives(HeldStep(machine), "what the ports do with it, a cycle later")
        self.active = gives(machine.ports, "ports that do, with it")
        self.query = gives(QueryRead(machine), "what the step needs of the queries a cycle later")
        self.taken = gives(Taken(machine), "what is taken out")
        self.ended = gives(
            range(ENTRIES_AT_ONCE + 1), "entries of the round of values that ended the cycle before, for one cycle"
        )
        self.working = gives(1, "a step, before the ports are told")
        self.weighed = gives(1, "values may be multiplied")
        self.idle = gives(1, "between rounds")
        self.waits = gives(1, "an entry of the phase waits for a round")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        heads, listed, progress = self.heads, self.listed, self.progress
        in_phase = self.phase.keys | self.phase.values
        # In registers: no round begins in a phase's first cycles.
        keys, values = delay_valid(m, self.phase.keys, 1, "in_keys"), delay_valid(m, self.phase.values, 1, "in_values")
        running, first_round = Signal(), Signal()
        at, again = Signal.like(progress.known), Signal.like(progress.known)  # the beat; where the next block's begins
        late = pipeline.told(self.machine)
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
        m.d.sync += together.eq(Mux(values, self.most, 0))
        among = [k < (1 << together) for k in range(ENTRIES_AT_ONCE)]
        some = [Cat(port[k] for port in self.pending) & among[k].replicate(self.machine.ports) for k in range(ENTRIES_AT_ONCE)]
        active = [Signal(self.machine.ports, name=f"active_{k}") for k in range(ENTRIES_AT_ONCE)]
        full = Cat(~wanted | pending.all() for wanted, pending in zip(among, some, strict=True)).all()
        round_first, finished = Signal(range(ENTRIES_HELD)), Signal.like(progress.finished)
        # A cycle later what of it counts; until the ports' answers are those behind a phase's begin, or a round's, none begins.
        seen = [delay_valid(m, pending, 1, f"seen_{k}") for k, pending in enumerate(some)]
        may_begin = delay_valid(m, some[0].any() & (full | self.last_entries), 1, "may_begin")
        answered = pipeline.answered(self.machine)
        begin, settling = Signal(), Signal(range(answered + 2))
        with m.If(~in_phase):
            m.d.sync += settling.eq(answered + 1)
        with m.Elif(begin):
            m.d.sync += settling.eq(answered)
        with m.Elif(settling != 0):
            m.d.sync += settling.eq(settling - 1)
        m.d.comb += [
            begin.eq(in_phase & ~running & may_begin & (settling == 0)),
            progress.together.eq(together),
            progress.begin.eq(delay_valid(m, begin, late, "begin")),
            progress.last.eq(delay_valid(m, self.last_entries, late, "last")),
            self.idle.eq(~running),
            self.waits.eq(some[0].any()),
        ]
        with m.If(begin):
            m.d.sync += [
                running.eq(1),
                *(own.eq(pending) for own, pending in zip(active, seen, strict=True)),
                last_entry.eq(Mux(seen[3].any(), 3, Mux(seen[2].any(), 2, seen[1].any()))),
                header_left.eq(Mux(values, 0, heads.header_beats)),
                again.eq(at),
                here.eq(seen[0]),
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
        freed, there_beat = Signal.like(at, name="freed"), Signal(Beat(self.machine), name="beat_here")
        all_there, may_head, may_work = self._known(m, in_phase, freed, at), Signal(), Signal()
        may_end_block, may_end_beat, may_end_head, may_end = (Signal(name=f"may_end_{name}") for name in ENDS)
        may = running & (keys | self.weighed)
        m.d.comb += [
            may_head.eq(may & header),
            may_work.eq(may & ~header & (~sum_end | (hold == 0))),
            may_end_block.eq(may_work & sum_end),
            may_end_beat.eq(may_end_block & last_block),  # of keys: the head's last one
            may_end_head.eq(may_end_beat & (keys | last_beat)),
            may_end.eq(may_end_head & last_head),
        ]
        head, work = may_head & all_there, may_work & all_there
        block_end, beat_end, head_end, end = (each & all_there for each in (may_end_block, may_end_beat, may_end_head, may_end))
        following, following_entry = Signal.like(at), Signal.like(entry)
        m.d.comb += [
            following.eq(at + 1),
            following_entry.eq(entry + 1),
            self.working.eq((may_head | may_work) & all_there),
            there_beat.product.eq(work),
            there_beat.address.eq(at),
            there_beat.first.eq(sum_first_step),
            there_beat.last.eq(sum_end),
            self.beat.eq(delay_valid(m, there_beat, late, "beat")),
        ]
        m.d.sync += self.ended.eq(Mux(end & values, last_entry + 1, 0))
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
                with m.If(keys):
                    m.d.sync += [beat.eq(0), word.eq(word_first)]
        with m.If(beat_end):
            m.d.sync += [
                word.eq(word + 1),
                again.eq(Mux(values, again + 1, following)),
                at.eq(Mux(values, again + 1, following)),
            ]
            with m.If(values):
                m.d.sync += beat.eq(Mux(last_beat, 0, beat + 1))
            with m.If(keys | (together == 0) | end):
                m.d.sync += freed.eq(following)
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
            m.d.sync += [first_round.eq(1), *(s.eq(0) for s in (round_first, finished, at, freed, hold))]
        m.d.comb += [
            progress.freed.eq(delay_valid(m, freed, late, "freed")),
            progress.finished.eq(delay_valid(m, finished, late, "finished")),
        ]
        self._weigh(m, begin, head_end & values, last_entry)
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

    def _known(self, m: Module, in_phase: Value, freed: Value, at: Value) -> Value:
        """Whether the beat ``at`` is one of those that all ports keep, or have not to bring: they are counted as far as the buffer goes."""
        answered = pipeline.answered(self.machine)
        known, turn = Signal.like(at, name="known"), Signal(range(answered + 2))
        all_more = [Cat(port[k] for port in self.more).all() for k in range(MORE)]
        room, there = Signal.like(at, name="known_room"), Signal.like(at, name="known_there")
        m.d.comb += [room.eq(known - freed), there.eq(known - at - 1)]
        with m.If(~in_phase):
            m.d.sync += [known.eq(0), turn.eq(answered + 1)]
        with m.Elif(turn != 0):
            m.d.sync += turn.eq(turn - 1)
        with m.Elif(room <= BEATS_HELD - MORE):
            m.d.sync += [known.eq(known + tree(all_more, lambda a, b: a + b)), turn.eq(answered - 1)]
        m.d.comb += self.progress.known.eq(delay_valid(m, known, pipeline.told(self.machine), "known"))
        return ~there[-1]

    def _weigh(self, m: Module, begin: Value, head_end: Value, last_entry: Signal) -> None:
        """A head of a round's values waits for its last entry's probabilities, which are made entry by entry.

        Counted are heads that are ready beyond those in front of the present head's last entry: once a round's last entry is known,
        those of the entries before it are left out.
        """
        heads = self.heads.kv_heads
        before, ahead = Signal(len(heads) + 2), Signal(signed(len(heads) + ENTRIES_HELD.bit_length() + 1))
        following, begun = Signal.like(ahead), delay_valid(m, begin, 1, "begun")
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
        cycles = 1 + pipeline.told(self.machine)
        m.d.comb += [
            self.step[name].eq(delay_valid(m, value, cycles, f"step_{name}")) for name, value in step.items() if name in VALID
        ]
        rest = {name: value for name, value in step.items() if name not in VALID}
        m.d.comb += [self.step[name].eq(delay(m, value, cycles, f"step_{name}")) for name, value in rest.items()]
        told = (self.active, self.progress.entry, self.query.word, self.query.head)
        # An entry is looked up.
        m.d.comb += [
            own.eq(delay(m, value[: len(own)], cycles - (own is self.progress.entry), "told"))
            for own, value in zip(told, others, strict=True)
        ]

    def _take(self, m: Module, last: Value, lanes: Value, about: Value) -> None:
        """The queries of a block whose sums are complete, from PUT_ASIDE cycles behind the last step."""
        at, taken, late = StationarySlice.PUT_ASIDE, Signal(Taken(self.machine), name="taken_here"), pipeline.told(self.machine)
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
            self.taken.eq(delay_valid(m, taken, late, "told_taken")),
        ]
