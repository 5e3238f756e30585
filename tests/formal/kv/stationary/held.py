"""Beats of entries in the multipliers' buffer: each is put behind the one before where there is room, and is told when it is there."""

from __future__ import annotations

import dataclasses
from unittest.mock import patch

from amaranth.hdl import Cat, Module, Mux, Signal

from hw.kv.stationary.held import MORE, HeldEntries
from skipopu.machine.config import Machine
from tests.formal.laws import Laws, Unit

MACHINE = dataclasses.replace(Machine.load("mono"), stationary=True, kv_heads=1)
HEADER, WORDS = 1, 2  # beats of a header, of K or V
BEATS_HELD, ENTRIES_HELD = 4, 2  # of a small buffer: what the unit counts comes round soon
BEAT_BITS, ENTRY_BITS = (2 * BEATS_HELD - 1).bit_length(), (2 * ENTRIES_HELD - 1).bit_length()


class SmallBuffer(HeldEntries):
    """The unit with a small buffer."""

    def __init__(self, machine: Machine) -> None:
        with patch.multiple("hw.kv.stationary.held", BEATS_HELD=BEATS_HELD, ENTRIES_HELD=ENTRIES_HELD):
            super().__init__(machine)

    def elaborate(self, platform: object) -> Module:
        with patch.multiple("hw.kv.stationary.held", BEATS_HELD=BEATS_HELD, ENTRIES_HELD=ENTRIES_HELD):
            return super().elaborate(platform)


def laws() -> Laws:
    """Of phases that begin and end, each behind an entry's last beat."""
    laws, held = Laws(), SmallBuffer(MACHINE)
    m = laws.m
    m.submodules.held = held
    on, values, ends = Signal(), Signal(), laws.free(1, "ends")
    # The walk uses up beats that are there, and frees them later; so it does with entries, which come numbered.
    written, known, needed, freed = (Signal(BEAT_BITS, name=name) for name in ("written", "known", "needed", "freed"))
    filled, finished, number = Signal(ENTRY_BITS), Signal(ENTRY_BITS), Signal(range(HEADER + WORDS))
    uses, knows = on & (needed != written) & laws.free(1, "uses"), on & (known != written) & laws.free(1, "knows")
    frees, finishes = laws.free(1, "frees") & (freed != needed), laws.free(1, "finishes") & (finished != filled)
    m.d.sync += [
        needed.eq(needed + uses),
        known.eq(known + knows),
        freed.eq(freed + frees),
        finished.eq(finished + finishes),
        written.eq(written + held.pop),
        filled.eq(filled + (held.pop & (number == 0))),
        number.eq(Mux(held.end, 0, number + held.pop)),
        on.eq(Mux(on, ~((number == 0) & ~held.pop & ends), laws.free(1, "begins"))),
    ]
    # Without a phase the walk goes back to the buffer's begin, as the unit does, which hears of a phase and of what is used up a cycle later.
    with m.If(~on):
        m.d.sync += [values.eq(laws.free(1, "values")), *(s.eq(0) for s in (written, known, needed, freed, filled, finished))]
    heard, used, done = (Signal.like(s, name=f"{s.name}_before") for s in (on, freed, finished))
    m.d.sync += [heard.eq(on), used.eq(Mux(heard, freed, 0)), done.eq(Mux(heard, finished, 0))]
    m.d.comb += [
        held.phase.keys.eq(on & ~values),
        held.phase.values.eq(on & values),
        held.heads.header_beats.eq(HEADER),
        held.heads.kv_words.eq(WORDS),
        held.heads.key_beats.eq(HEADER + WORDS),
        held.progress.known.eq(known),
        held.progress.freed.eq(freed),
        held.progress.finished.eq(finished),
        held.progress.entry.eq(finished),
        held.present.token.eq(filled - (number != 0)),
        held.ready.eq(on & laws.free(1, "ready")),
    ]
    last = Mux(values, WORDS, HEADER + WORDS) - 1
    laws.law(
        "a beat is taken in a phase, one that is ready, where there is room for it",
        ~held.pop | (on & held.ready & ((written - freed)[:BEAT_BITS] < BEATS_HELD)),
    )
    laws.law(
        "an entry begins where there is room for it",
        ~(held.pop & (number == 0)) | ((filled - finished)[:ENTRY_BITS] < ENTRIES_HELD),
    )
    laws.law("each beat is kept behind the one before", ~held.pop | (held.address == written[: len(held.address)]))
    laws.law("an entry ends with its last beat", held.end == (held.pop & (number == last)))
    beyond, was_on = Signal(BEAT_BITS), Signal()
    m.d.sync += [beyond.eq(written - known), was_on.eq(on & heard)]
    laws.law(
        "which beats are kept beyond those known is said a cycle later, and no others",
        ~was_on | (held.more == Cat(beyond > k for k in range(MORE))),
    )
    laws.law(
        "a beat that is ready is taken at once where there was room for it and its entry",
        held.pop
        | ~(on & heard & held.ready & ((written - used)[:BEAT_BITS] != BEATS_HELD))
        | ((number == 0) & ((filled - done)[:ENTRY_BITS] == ENTRIES_HELD)),
        bound=20,
    )
    own, there = Signal(ENTRY_BITS), Signal()
    m.d.sync += [own.eq(finished), there.eq(on & (finished != filled))]
    laws.law("the step's entry is the one that was taken in its turn", ~there | (held.own.token[:ENTRY_BITS] == own))
    again = Signal()
    m.d.sync += again.eq(again | (on & ends & (number == 0) & ~held.pop & (written != 0)))
    laws.reached("as many entries are kept as there is room for", on & ((filled - finished)[:ENTRY_BITS] == ENTRIES_HELD))
    laws.reached(
        "in a second phase a beat waits for room in the buffer, which came round before",
        on & again & held.ready & ~held.pop & (number != 0) & (written[: BEAT_BITS - 1] != 0) & written[-1],
    )
    return laws


UNITS = (Unit("hw/kv/stationary/held.py", laws, f"a buffer of {BEATS_HELD} beats and {ENTRIES_HELD} entries"),)
