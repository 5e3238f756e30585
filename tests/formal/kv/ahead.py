"""What was asked for ahead is there when it came, and not before: of one half, whichever it is."""

from __future__ import annotations

import dataclasses
from unittest.mock import patch

from amaranth.hdl import Array, Module, Mux, Signal

from hw.kv.ahead import AheadEntries
from skipopu.machine.config import Machine
from tests.formal.laws import Laws, Unit

MACHINE = dataclasses.replace(Machine.load("mono"), history=64)
SLOTS = MACHINE.history_slots
HALF_BITS = SLOTS.bit_length()  # of a half here: its slot, and whether it is values
DEPTH = 3  # entries on their way at most, in ENTRIES_AHEAD's stead: a full line is looked at
DEADLINE = 11  # cycles looked at where there is no proof for all


class FewEntries(AheadEntries):
    """The unit for :data:`DEPTH` entries."""

    def elaborate(self, platform: object) -> Module:
        with patch("hw.kv.ahead.ENTRIES_AHEAD", DEPTH):
            return super().elaborate(platform)


def laws() -> Laws:
    laws, ahead = Laws(), FewEntries(MACHINE)
    m = laws.m
    m.submodules.ahead = ahead
    # A layer's halves are taken in rising order, keys before values; any layer may begin instead, with keys. A half that was taken is
    # dropped or asked for before the next one, and comes in its turn: as many as wait stand in line, the last one to come first.
    half, latest, begun, busy = Signal(HALF_BITS), Signal(HALF_BITS), Signal(), Signal()
    line, waiting = [Signal(HALF_BITS, name=f"line_{k}") for k in range(DEPTH)], Signal(range(DEPTH + 1))
    chosen, take = laws.free(HALF_BITS, "half"), laws.free(1, "take") & ~busy
    follows = begun & (chosen > latest) & (~chosen[0] | (chosen == latest + 1))
    laws.assume(~take | follows | ~chosen[0])
    dropped = busy & laws.free(1, "dropped")
    asked = busy & ~dropped & laws.free(1, "asked") & (waiting != DEPTH)
    came = laws.free(1, "came") & (waiting != 0)
    m.d.comb += half.eq(Mux(take, chosen, latest))
    m.d.sync += [latest.eq(half), begun.eq(begun | take), busy.eq(take | (busy & ~dropped & ~asked))]
    m.d.sync += waiting.eq(waiting + asked - came)
    with m.If(asked):
        m.d.sync += [own.eq(before) for own, before in zip(line, [latest, *line], strict=False)]
    eldest = Signal(HALF_BITS)
    m.d.comb += eldest.eq(Array(line)[(waiting - 1)[: len(waiting)]])
    watched = laws.fixed(HALF_BITS, "watched")
    own = Signal(range(DEPTH + 2))
    m.d.sync += own.eq(own + (take & (chosen == watched)) - (dropped & (latest == watched)) - (came & (eldest == watched)))
    m.d.comb += [
        ahead.taken.eq(take | laws.free(1, "other")),
        ahead.entry.ahead.eq(take),
        ahead.entry.half.slot.eq(half[1:]),
        ahead.entry.half.values.eq(half[0]),
        ahead.dropped.eq(dropped),
        ahead.came.eq(came),
        ahead.came_half.slot.eq(eldest[1:]),
        ahead.came_half.values.eq(eldest[0]),
        ahead.asked.slot.eq(watched[1:]),
        ahead.asked.values.eq(watched[0]),
    ]
    laws.law("a half is not there while it is on its way", ~ahead.there | (own == 0), bound=DEADLINE)
    laws.law("nothing is on its way: just when all that was taken came or was dropped", ahead.none == ((waiting == 0) & ~busy))
    laws.law("all is there when nothing is on its way", ~ahead.none | ahead.there)
    was_there = Signal()
    m.d.sync += was_there.eq(was_there | (came & (eldest == watched)))
    laws.reached(
        "a half that came is there while others are on their way",
        was_there & (own == 0) & ahead.there & ~ahead.none,
        within=DEADLINE,
    )
    laws.reached(
        "a half that waits is asked about while as many are on their way as may be, and another one comes",
        (waiting == DEPTH) & busy & (own != 0) & came,
        within=DEADLINE,
    )
    return laws


UNITS = (Unit("hw/kv/ahead.py", laws, f"{SLOTS} slots, up to {DEPTH} entries on their way and one more that is taken"),)
