"""History buffer: what is found is what was kept for this very place since it was cleared, and its beats are those written last."""

from __future__ import annotations

import dataclasses

from amaranth.hdl import Mux, Signal, Value

from hw.kv.history import READ_AHEAD, HistoryBuffer
from skipopu.machine.config import Machine
from tests.formal.laws import Laws, Unit

MACHINE = dataclasses.replace(Machine.load("mono"), kv_heads=1, history=32)  # two slots
PLACE_BITS = 2  # of a place here
HEADER, WORDS = 1, 2  # beats of a header, of K or V
LATENCY = 5  # cycles from a half asked for to its first beat
DEADLINE = 16  # cycles looked at where there is no proof for all: two halves are read in them


def tag_laws() -> Laws:
    """Of one tag, whichever it is."""
    laws, history = Laws(), HistoryBuffer(MACHINE)
    m = laws.m
    m.submodules.history = history
    slot, values = laws.fixed(range(MACHINE.history_slots), "slot"), laws.fixed(1, "values")
    place = laws.free(PLACE_BITS, "place")
    # Nothing is known of memory before a run has begun.
    begun = Signal()
    m.d.sync += begun.eq(begun | history.restart)
    m.d.comb += [history.place.eq(place), history.lookup_enable.eq(laws.free(1) & begun & ~history.clearing)]
    for half in (history.lookup, history.keep):
        m.d.comb += [half.slot.eq(laws.free(range(MACHINE.history_slots))), half.values.eq(laws.free(1))]
    laws.drive(history.keep_enable, history.restart)
    looked, kept, kept_place, past = Signal(PLACE_BITS), Signal(), Signal(PLACE_BITS), Signal()
    with m.If(history.lookup_enable):
        m.d.sync += looked.eq(place)
    with m.If(history.restart | history.clearing):
        m.d.sync += [kept.eq(0), past.eq(0)]
    with m.Elif(history.keep_enable & (history.keep.slot == slot) & (history.keep.values == values)):
        # Of the example: before the place kept last another one was.
        m.d.sync += [kept.eq(1), kept_place.eq(looked), past.eq(past | (kept & (kept_place != looked)))]
    # What a lookup has to find
    watched, found = Signal(), Signal()
    with m.If(history.lookup_enable):
        m.d.sync += [
            watched.eq((history.lookup.slot == slot) & (history.lookup.values == values)),
            found.eq(kept & (kept_place == place)),
        ]
    laws.law(
        "a half is found just when the place looked up is the one kept in it last, since everything was forgotten",
        ~watched | (history.hit == found),
    )
    laws.law("forgetting begins the cycle after it is asked for", ~laws.before(history.restart) | history.clearing)
    cleared = Signal(range(2 * MACHINE.history_slots + 2))
    m.d.sync += cleared.eq(Mux(history.restart | ~history.clearing, 0, cleared + 1))
    laws.law("it takes a cycle per tag", ~history.clearing | (cleared < 2 * MACHINE.history_slots))
    laws.reached(
        "a place is found in a half that was kept there after another one",
        watched & history.hit & past,
    )
    return laws


def laws() -> Laws:
    """Of one beat of one half, whichever it is."""
    laws, history = Laws(), HistoryBuffer(MACHINE)
    m = laws.m
    m.submodules.history = history
    m.d.comb += [
        history.heads.header_beats.eq(HEADER),
        history.heads.kv_words.eq(WORDS),
        history.heads.key_beats.eq(HEADER + WORDS),
    ]
    slot, values = laws.fixed(range(MACHINE.history_slots), "slot"), laws.fixed(1, "values")
    number = laws.fixed(range(HEADER + WORDS), "number")
    laws.assume(number < beats_of(values))
    written, asked, beats = history.written, history.reads.payload, history.beats
    waits = laws.before(history.reads.valid & ~history.reads.ready)
    for half in (written, asked):
        m.d.comb += half.base.eq(half.slot * (2 * WORDS))
    for field in (asked.slot, asked.values):
        value = Value.cast(field)
        m.d.comb += value.eq(Mux(waits, laws.before(value), laws.free(len(value))))
    m.d.comb += history.reads.valid.eq(waits | laws.free(1))
    laws.drive(beats.ready, Value.cast(written.slot), Value.cast(written.values))
    take, give = history.reads.valid & history.reads.ready, beats.valid & beats.ready
    # Beats are read as long as there is room for them: it is counted as the unit does, header and other beats apart, and a beat's place
    # is free a cycle after it was taken.
    header_left, left, room = (
        Signal(range(HEADER + 1)),
        Signal(range(WORDS + 1)),
        Signal(range(READ_AHEAD + 1), init=READ_AHEAD),
    )
    of_header, unread = header_left != 0, header_left + left
    read = (unread != 0) & (room != 0)
    with m.If(take):
        m.d.sync += [header_left.eq(Mux(asked.values, 0, HEADER)), left.eq(WORDS)]
    with m.Elif(read):
        m.d.sync += [header_left.eq(header_left - of_header), left.eq(left - (header_left == 0))]
    owed = Signal.like(room, name="owed", init=0)
    m.d.sync += [room.eq(room - read + laws.before(give)), owed.eq(owed + read - give)]

    # A read of the half is chosen, which nothing writes to meanwhile: so many beats are read or come before the beat.
    chosen, coming, before, content, known = Signal(), Signal(), Signal.like(room), Signal(), Signal()
    rewritten = Signal()  # another bit was written over the first one
    choose = take & ~chosen & ~coming & known & laws.free(1) & (asked.slot == slot) & (asked.values == values)
    with m.If(choose):
        m.d.sync += [chosen.eq(1), before.eq(number)]
    with m.Elif(chosen & read):
        m.d.sync += before.eq(before - 1)
        with m.If(before == 0):
            m.d.sync += [chosen.eq(0), coming.eq(1), before.eq(owed - give)]
    with m.Elif(coming & give):
        m.d.sync += [coming.eq(before != 0), before.eq(before - 1)]
    mine = (written.slot == slot) & (written.values == values)
    which, bit = laws.free(range(HEADER + WORDS)), laws.free(1)
    laws.assume(which < beats_of(written.values))
    m.d.comb += [
        history.written_number.eq(which),
        history.written_data.eq(bit),
        history.written_enable.eq(laws.free(1) & ~(mine & (choose | chosen | coming))),
    ]
    with m.If(history.written_enable & mine & (which == number)):
        m.d.sync += [content.eq(bit), known.eq(1), rewritten.eq(rewritten | (known & (content != bit)))]
    laws.law("beats come that were asked for", ~beats.valid | (owed != 0))
    laws.law(
        "a beat of a half is what was written to it last, and comes when those before it came",
        ~(coming & beats.valid & (before == 0)) | (beats.payload[0] == content),
        bound=DEADLINE,
    )
    late = Signal(range(LATENCY + 2))
    m.d.sync += late.eq(Mux(((owed == 0) & (unread == 0)) | beats.valid, 0, late + 1))
    laws.law(f"what was asked for comes in {LATENCY} cycles", late < LATENCY)
    laws.law(
        "the level tells no more beats than were read and not taken", (history.level <= owed) & (history.level <= READ_AHEAD)
    )
    laws.law(
        "behind a beat that is taken there is the next one at once, where the level is above 1",
        ~laws.before(beats.valid & (history.level > 1)) | beats.valid,
    )
    laws.law(
        "a half is taken when all beats of those before it were read, or are waited for", history.reads.ready == (unread == 0)
    )
    laws.reached(
        "a beat comes that was written again, with others behind it",
        coming & beats.valid & (before == 0) & rewritten & (owed > 1),
        within=DEADLINE,
    )
    laws.reached("as many beats are read and not taken as there is room for", owed == READ_AHEAD)
    return laws


def beats_of(values: Value) -> Value:
    """Beats of values or keys."""
    return Mux(values, WORDS, HEADER + WORDS)


UNITS = (
    Unit("hw/kv/history.py", tag_laws, f"{MACHINE.history_slots} slots, {1 << PLACE_BITS} places"),
    Unit("hw/kv/history.py", laws, f"{MACHINE.history_slots} slots, a header of {HEADER} beat, K and V of {WORDS}"),
)
