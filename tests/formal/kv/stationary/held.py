"""Beats of entries in the multipliers' buffer: each is put behind the one before where there is room, and is told when it is there."""

from __future__ import annotations

import dataclasses

from amaranth.hdl import Mux, Signal

from hw.kv.stationary.held import HeldEntries
from skipopu.machine.config import BEATS_HELD, ENTRIES_HELD, Machine
from tests.formal.laws import Laws, Unit

MACHINE = dataclasses.replace(Machine.load("mono"), stationary=True, kv_heads=1)
HEADER, WORDS = 1, 2  # beats of a header, of K or V
DEADLINE = 24  # cycles looked at where there is no proof for all: the buffer is not full in them
BEAT_BITS, ENTRY_BITS = (2 * BEATS_HELD - 1).bit_length(), (2 * ENTRIES_HELD - 1).bit_length()


def laws() -> Laws:
    """Of a phase."""
    laws, held = Laws(), HeldEntries(MACHINE)
    m = laws.m
    m.submodules.held = held
    values = laws.fixed(1, "values")
    # The walk uses up beats that are there, and frees them later; so it does with entries, which come numbered.
    written, needed, freed = (Signal(BEAT_BITS, name=name) for name in ("written", "needed", "freed"))
    filled, finished, number = Signal(ENTRY_BITS), Signal(ENTRY_BITS), Signal(range(HEADER + WORDS))
    uses = held.there & laws.free(1, "uses")
    frees, finishes = laws.free(1, "frees") & (freed != needed), laws.free(1, "finishes") & (finished != filled)
    m.d.sync += [
        needed.eq(needed + uses),
        freed.eq(freed + frees),
        finished.eq(finished + finishes),
        written.eq(written + held.pop),
        filled.eq(filled + (held.pop & (number == 0))),
        number.eq(Mux(held.end, 0, number + held.pop)),
    ]
    m.d.comb += [
        held.phase.keys.eq(~values),
        held.phase.values.eq(values),
        held.heads.header_beats.eq(HEADER),
        held.heads.kv_words.eq(WORDS),
        held.heads.key_beats.eq(HEADER + WORDS),
        held.progress.needed.eq(needed),
        held.progress.freed.eq(freed),
        held.progress.finished.eq(finished),
        held.progress.entry.eq(finished),
        held.present.token.eq(filled - (number != 0)),
    ]
    laws.drive(held.ready)
    last = Mux(values, WORDS, HEADER + WORDS) - 1
    laws.law(
        "a beat is taken that is ready, while the buffer is not full: that comes later",
        ~held.pop | (held.ready & ((written - freed)[:BEAT_BITS] < BEATS_HELD)),
        bound=DEADLINE,
    )
    laws.law(
        "an entry begins where there is room for it",
        ~(held.pop & (number == 0)) | ((filled - finished)[:ENTRY_BITS] < ENTRIES_HELD),
    )
    laws.law("each beat is kept behind the one before", held.address == written[: len(held.address)])
    laws.law("an entry ends with its last beat", held.end == (held.pop & (number == last)))
    laws.law("the beat needed is there just when it was taken before", held.there == (needed != written), bound=DEADLINE)
    laws.law(
        "the step's entry is the one that was taken in its turn",
        (finished == filled) | (held.own.token[:ENTRY_BITS] == finished),
    )
    laws.reached("as many entries are kept as there is room for", (filled - finished)[:ENTRY_BITS] == ENTRIES_HELD)
    return laws


UNITS = (Unit("hw/kv/stationary/held.py", laws, f"{BEATS_HELD} beats, {ENTRIES_HELD} entries, one phase, rounds left out"),)
