"""The entry fetcher: each entry that is wanted comes once, in its phase, with its own beats, from memory or as they were kept."""

from __future__ import annotations

import dataclasses

from amaranth.hdl import Array, Mux, Signal, Value

from hw.kv.fetch import KvFetch
from hw.kv.order import CHOSEN
from hw.widths import TOKEN_BITS
from skipopu.machine.config import ENTRIES_AHEAD, Machine
from tests.formal.laws import Laws, Unit

MACHINE = dataclasses.replace(Machine.load("mono"), kv_heads=1, history=16, burst=1, weight_fifo=2, kv_fifo=4)  # one slot
HEADER, WORDS = 1, 1  # beats of a header, of K or V
TOKENS = 2  # of an instruction at most: the first has a slot of the history buffer
PLACE_BITS = 1  # of a place here
RUNS = 4  # that memory takes before their beats came
COUNT_BITS = (2 * ENTRIES_AHEAD + CHOSEN + 1).bit_length()  # of how many entries a unit may have taken
# Cycles looked at, as many as are decided in some seconds; what is in them the examples show. Keys and values, values alone, halves
# that are asked for ahead:
DEADLINE, VALUES_DEADLINE, AHEAD_DEADLINE = 19, 20, 17


class Attention:
    """Around the unit: layers, each with a map; entries wanted ahead of an instruction; its keys, then its values, or values alone.

    Attributes:
        keys_first: instructions have keys. No machine does without; what it takes to come to values is left out so.
        begun: instructions that began, up to 3.
        asked, ended, weighed: entries of the phase or instruction so far, wanted, used up, and whose probabilities were made.
        number: beats of the present entry so far.
        seen: tokens whose entries were used up in this phase.
    """

    def __init__(self, laws: Laws, fetch: KvFetch, keys_first: bool) -> None:
        m, wanted = laws.m, fetch.wanted.payload
        self.keys_first, self.begun = keys_first, Signal(2)
        self.tokens = laws.fixed(range(1, TOKENS + 1), "tokens")
        starts, self.keys, between, self.values = (Signal(name=name) for name in ("starts", "keys", "between", "values"))
        idle = ~(starts | self.keys | between | self.values)
        ahead, may_ahead = Signal(range(3)), Signal()
        self.places = Array(Signal(PLACE_BITS, name=f"place_{t}") for t in range(TOKENS))
        self.asked, self.ended, self.weighed = Signal(3), Signal(2), Signal(2)
        self.number, self.seen = Signal(2), Signal(TOKENS)
        restart = Signal(init=1)
        layer = idle & laws.free(1, "layer")
        begin = idle & ~layer & laws.free(1, "begin") & ~restart
        keys_done = self.keys & (self.ended == self.tokens) & (self.asked >= self.tokens)
        values_done = self.values & (self.ended == self.tokens) & (self.weighed == self.tokens)
        m.d.sync += [
            restart.eq(0),
            starts.eq(begin),
            self.keys.eq((starts & keys_first) | (self.keys & ~keys_done)),
            between.eq(keys_done),
            self.values.eq(between | (starts & (not keys_first)) | (self.values & ~values_done)),
        ]
        with m.If(layer):
            m.d.sync += [ahead.eq(0), may_ahead.eq(1), *(place.eq(laws.free(PLACE_BITS)) for place in self.places)]
        with m.If(begin):
            m.d.sync += [may_ahead.eq(0), self.begun.eq(Mux(self.begun == 3, 3, self.begun + 1))]
        # What is wanted: of the first token ahead, keys and values; of an instruction all keys, then all values.
        taken = fetch.wanted.valid & fetch.wanted.ready
        values_wanted = Mux(idle, ahead[0], self.asked >= self.tokens)
        token = Mux(idle, 0, self.asked - Mux(values_wanted, self.tokens, 0))
        wants = Mux(
            idle,
            may_ahead & ~begin & ~layer & (ahead < 2),
            (self.keys | between | self.values) & (self.asked < (self.tokens << 1)),
        )
        kept = laws.fixed(1, "kept")
        m.d.comb += [
            fetch.restart.eq(restart),
            fetch.begin.eq(begin),
            fetch.soon.keys.eq(self.keys | (starts & keys_first)),
            fetch.soon.values.eq(between | self.values | (starts & (not keys_first))),
            fetch.wanted.valid.eq(wants & laws.free(1, "wants") & ~restart & (kept | ~idle)),
            wanted.place.eq(self.places[token[0]]),
            wanted.entry.token.eq(token),
            wanted.entry.score.eq(token),
            wanted.entry.half.slot.eq(0),
            wanted.entry.half.values.eq(values_wanted),
            wanted.entry.kept.eq(kept & (token == 0)),
            wanted.entry.ahead.eq(idle),
        ]
        self.came = taken & ~idle
        with m.If(taken & idle):
            m.d.sync += ahead.eq(ahead + 1)
        m.d.sync += self.asked.eq(Mux(idle, 0 if keys_first else self.tokens, self.asked + self.came))
        # What is used
        last = self.number == Mux(self.values, WORDS, HEADER + WORDS) - 1
        self.pop = laws.free(1, "pop") & fetch.ready & (self.keys | (self.values & (self.weighed > self.ended)))
        self.end, weigh = self.pop & last, Signal()
        scored = fetch.left if keys_first else self.weighed < self.tokens
        m.d.comb += weigh.eq(laws.free(1, "weigh") & self.values & fetch.softmax_ready & scored & ~laws.before(weigh))
        m.d.comb += [fetch.pop.eq(self.pop), fetch.end.eq(self.end), fetch.softmax_end.eq(weigh)]
        m.d.sync += [
            self.number.eq(Mux(self.end, 0, self.number + self.pop)),
            self.ended.eq(Mux(self.keys | self.values, self.ended + self.end, 0)),
            self.seen.eq(Mux(self.keys | self.values, self.seen | Mux(self.end, 1 << fetch.entry.token[0], 0), 0)),
            self.weighed.eq(Mux(self.values, self.weighed + weigh, 0)),
        ]


class Memory:
    """Behind the unit: takes runs and brings their beats, in order, when it likes. One beat of one place is 1, whichever it is.

    Attributes:
        owed: beats that it was asked for and that the unit did not take.
    """

    def __init__(self, laws: Laws, fetch: KvFetch) -> None:
        m, runs, beats = laws.m, fetch.loader.runs, fetch.loader.beats
        self.place, self.offset = laws.fixed(PLACE_BITS, "watched"), laws.fixed(range(HEADER + 2 * WORDS), "offset")
        beat_bits = (MACHINE.beats_per_block - 1).bit_length()
        first = [Signal(PLACE_BITS + beat_bits, name=f"first_{k}") for k in range(RUNS)]
        left = [Signal(2, name=f"left_{k}") for k in range(RUNS)]
        take, give = runs.valid & runs.ready, beats.valid & beats.ready
        shift = give & (left[0] == 1)
        full, self.owed = left[-1] != 0, Signal(range(RUNS * (HEADER + WORDS) + 1))
        after = [(give & (k == 0), left[k], first[k]) for k in range(RUNS)]
        next_left = [Signal.like(count) for count in left]
        next_first = [Signal.like(beat) for beat in first]
        for k, (taken, count, beat) in enumerate(after):
            moved = (left[k + 1], first[k + 1]) if k + 1 < RUNS else (0, 0)
            m.d.comb += [
                next_left[k].eq(Mux(shift, moved[0], count - taken)),
                next_first[k].eq(Mux(shift, moved[1], beat + taken)),
            ]
            free_here = (next_left[k] == 0) & (next_left[k - 1] != 0 if k else 1)
            m.d.sync += [
                left[k].eq(Mux(take & free_here, runs.payload.count, next_left[k])),
                first[k].eq(Mux(take & free_here, runs.payload.beat, next_first[k])),
            ]
        here = Signal(range(MACHINE.kv_fifo + 1))
        came = laws.free(1, "came") & (here < self.owed) & (here != MACHINE.kv_fifo)
        m.d.sync += [here.eq(here + came - give), self.owed.eq(self.owed + Mux(take, runs.payload.count, 0) - give)]
        stands = laws.before(beats.valid & (~beats.ready | (here > 1)))
        m.d.comb += [
            runs.ready.eq(laws.free(1, "runs_ready") & ~full),
            fetch.loader.level.eq(here),
            beats.valid.eq((here != 0) & (stands | laws.free(1, "shows"))),
            beats.payload.eq(self.is_watched(first[0][beat_bits:], first[0][:beat_bits])),
        ]

    def is_watched(self, place: Value, offset: Value) -> Value:
        """Content of that beat."""
        return (place == self.place) & (offset == self.offset)


def build(keys_first: bool, bound: int) -> tuple[Laws, KvFetch, Attention, Signal]:
    """A fetcher with its surroundings and what is claimed of both kinds of instructions; at last, whether a beat came ahead."""
    laws, fetch = Laws(), KvFetch(MACHINE)
    m = laws.m
    m.submodules.fetch = fetch
    m.d.comb += [
        fetch.heads.header_beats.eq(HEADER),
        fetch.heads.kv_words.eq(WORDS),
        fetch.heads.key_beats.eq(HEADER + WORDS),
        fetch.pool.entry.eq(1),
    ]
    laws.drive(fetch.filling)
    around, memory = Attention(laws, fetch, keys_first), Memory(laws, fetch)
    entry, in_phase = fetch.entry, around.keys | around.values
    token = entry.token[0]
    laws.law(
        "an entry that is there is one of the instruction's tokens, of the phase, and was not there before",
        ~fetch.ready
        | (in_phase & (entry.half.values == around.values) & (entry.token < around.tokens) & ~around.seen.bit_select(token, 1)),
        bound=bound,
    )
    offset = around.number + Mux(entry.half.values, HEADER + WORDS, 0)
    laws.law(
        "its beats are those of the place that the map gives for its token, in order, wherever they come from",
        ~fetch.ready | (fetch.beat[0] == memory.is_watched(around.places[token], offset)),
        bound=bound,
    )
    keys, values = Signal(COUNT_BITS + 1), Signal(COUNT_BITS + 1)
    of_values = fetch.wanted.payload.entry.half.values
    m.d.sync += [
        keys.eq(keys + (around.came & ~of_values) - (around.end & around.keys)),
        values.eq(values + (around.came & of_values) - (around.end & around.values)),
    ]
    pending = Mux(around.values, values, keys)
    laws.law("pending: just when an entry of the phase was taken and not used up", fetch.pending == (pending != 0), bound=bound)
    scores = Array(Signal(1, name=f"score_{k}") for k in range(TOKENS))
    with m.If(fetch.softmax_end):
        m.d.sync += scores[around.weighed[0]].eq(fetch.softmax_score[0])
    laws.law(
        "values come in the order in which their probabilities were asked for",
        ~(fetch.ready & around.values & (around.weighed > around.ended)) | (entry.score == scores[around.ended[0]]),
        bound=bound,
    )
    came = Signal()
    m.d.sync += came.eq(came | fetch.fetched_ahead)
    return laws, fetch, around, came


def laws() -> Laws:
    """Of instructions as they are."""
    laws, fetch, around, came = build(True, DEADLINE)
    m, scored = laws.m, Signal(TOKEN_BITS)
    m.d.sync += scored.eq(Mux(fetch.begin, 0, scored + (around.end & around.keys) - fetch.softmax_end))
    laws.law(
        # Bounded: with the phase in a register of the unit no induction of these lengths was found; its simulation counts the same.
        "left: just when a scored entry had no probabilities a cycle before",
        fetch.left == laws.before(scored != 0),
        bound=DEADLINE,
    )
    laws.law(
        "behind a beat that is used up comes the entry's next one at once, where it says that there is one",
        ~laws.before(around.pop & ~around.end & fetch.behind) | fetch.ready,
        bound=DEADLINE,
    )
    ahead, owed = Signal(), Signal(range(2 * HEADER + 4 * WORDS + 8))
    run = fetch.loader.runs.valid & fetch.loader.runs.ready
    with m.If(fetch.wanted.valid & fetch.wanted.ready):
        m.d.sync += ahead.eq(fetch.wanted.payload.entry.ahead)
    m.d.sync += owed.eq(owed + Mux(run & ahead, fetch.loader.runs.payload.count, 0) - fetch.fetched_ahead)
    laws.law("a beat that came ahead was asked for ahead", ~fetch.fetched_ahead | (owed != 0), bound=AHEAD_DEADLINE)
    laws.law("quiet: nothing that was asked for ahead is owed", ~fetch.quiet | (owed == 0), bound=AHEAD_DEADLINE)
    beats = laws.counter(2, fetch.fetched_ahead & (around.begun == 0), 0)
    laws.reached(
        "all is quiet behind keys and values that were asked for ahead",
        fetch.quiet & (beats == HEADER + 2 * WORDS),
        within=AHEAD_DEADLINE,
    )
    laws.reached(
        "the last beat of keys comes from the history buffer that were asked for ahead",
        came & (around.begun == 1) & around.keys & around.end & fetch.hit,
        within=DEADLINE,
    )
    laws.reached(
        "a beat of keys comes from the history buffer, and it says that there is one behind",
        around.pop & ~around.end & fetch.behind & fetch.hit,
        within=DEADLINE,
    )
    laws.reached("values are used up", around.values & around.end, within=DEADLINE)
    laws.reached("an instruction's second entry of values is used up", around.values & around.end & (around.ended == 1))
    return laws


def value_laws() -> Laws:
    """Of instructions of values alone."""
    laws, fetch, around, came = build(False, VALUES_DEADLINE)
    second = around.end & (around.ended == 1)
    laws.reached("an instruction's second entry is used up", second, within=VALUES_DEADLINE)
    laws.reached(
        "an entry comes from the history buffer that was asked for ahead",
        came & (around.begun == 1) & around.end & fetch.hit,
        within=VALUES_DEADLINE,
    )
    laws.reached(
        "an entry comes from the history buffer that the instruction before kept (the laws do not look so far)",
        around.end & fetch.hit & (around.begun == 2) & ~came,
    )
    return laws


OF = f"one slot of the history buffer, up to {TOKENS} tokens, headers and heads of a beat"
UNITS = (
    Unit("hw/kv/fetch.py", laws, OF),
    Unit("hw/kv/fetch.py", value_laws, f"{OF}, instructions of values alone, which no machine has: the way to them is short"),
)
