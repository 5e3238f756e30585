"""Requests of entries: each is asked for, found or dropped, once."""

from __future__ import annotations

from amaranth.hdl import Mux, Signal

from hw.kv.request import EntryRequests
from hw.memory.axi import ADDRESS_BITS
from skipopu.machine.config import Machine
from tests.formal.laws import Laws, Unit

MACHINE = Machine.load("mono")
NUMBER_BITS = 4  # of an entry's number
PLACE_BITS = 4  # of a place here


def laws() -> Laws:
    laws, requests = Laws(), EntryRequests(MACHINE)
    m = laws.m
    m.submodules.requests = requests
    wanted = requests.wanted.payload
    take = requests.wanted.valid & requests.wanted.ready
    count = laws.counter(NUMBER_BITS, take, 0)
    ahead, values, place = laws.free(1, "ahead"), laws.free(1, "values"), laws.free(PLACE_BITS, "place")
    m.d.comb += [
        wanted.entry.token.eq(count),
        wanted.place.eq(place),
        wanted.entry.ahead.eq(ahead),
        wanted.entry.half.values.eq(values),
        requests.wanted.valid.eq(laws.free(1)),
    ]
    # The history buffer's word about an entry stands until the next one.
    held = Signal()
    m.d.comb += [held.eq(Mux(laws.before(take), laws.free(1, "held"), laws.before(held))), requests.held.eq(held)]
    laws.drive(requests.clearing, requests.filling, requests.runs.ready, requests.misses.ready, requests.hits.ready)
    laws.drive(requests.heads.key_beats, requests.heads.kv_words, requests.pool.base)
    size = laws.fixed(len(requests.pool.entry), "size")
    m.d.comb += requests.pool.entry.eq(size)
    ran, missed, hit = (s.valid & s.ready for s in (requests.runs, requests.misses, requests.hits))
    results = ran + hit + requests.dropped
    gone, owed = laws.counter(NUMBER_BITS, results, 0), laws.counter(2, take, results)
    was_ahead, was_values, was_place = Signal(), Signal(), Signal(PLACE_BITS)
    with m.If(take):
        m.d.sync += [was_ahead.eq(ahead), was_values.eq(values), was_place.eq(place)]
    laws.law("an entry is asked for, found or dropped, after it was taken, and once", (results <= owed) & (owed <= 1))
    laws.law("a run is asked for in the cycle of its entry", ran == missed)
    laws.law(
        "what goes on is the entry that was taken",
        (~missed | (requests.misses.payload.token == gone)) & (~hit | (requests.hits.payload.token == gone)),
    )
    laws.law(
        "an entry is asked for when it is not held, found when it is and is wanted now, dropped when wanted ahead and held or too late",
        (~ran | ~held) & (~hit | (held & ~was_ahead)) & (~requests.dropped | (was_ahead & (held | ~requests.filling))),
    )
    laws.law(
        "a run has all beats of keys with their header, or of values",
        ~ran | (requests.runs.payload.count == Mux(was_values, requests.heads.kv_words, requests.heads.key_beats)),
    )
    block = (requests.pool.base + was_place * size)[:ADDRESS_BITS]
    laws.law(
        "it begins with the first of them in the entry's place",
        ~ran | (requests.runs.payload.beat == block * MACHINE.beats_per_block + Mux(was_values, requests.heads.key_beats, 0)),
    )
    laws.law("none is taken while the history buffer is cleared", ~take | ~laws.before(requests.clearing))
    laws.law(
        "nothing waits where all sides are ready, but for a cycle what is asked for",
        (owed == 0)
        | ~(requests.runs.ready & requests.misses.ready & requests.hits.ready)
        | (results == 1)
        | (laws.before(take) & ~held),
    )
    laws.reached("an entry wanted now is found behind one that was asked for", hit & (gone == 1) & laws.before(take))
    return laws


UNITS = (Unit("hw/kv/request.py", laws, f"`mono`, {1 << PLACE_BITS} places"),)
