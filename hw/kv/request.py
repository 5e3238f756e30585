"""Requests of one port's entries: what the history buffer does not hold is asked for."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream

from hw.arithmetic.pipeline import bits_for_index
from hw.component import Component, given, gives
from hw.kv.history import Half
from hw.kv.shapes import Heads, Pool
from hw.memory.axi import ADDRESS_BITS
from hw.memory.reader import Run
from hw.widths import PLACE_BITS, TOKEN_BITS
from skipopu.isa.spec import ADDRESS_UNIT
from skipopu.machine.config import QUERY_LANES, Machine


class Entry(data.StructLayout):
    """Half an entry to visit.

    token: whose; score: first score word of the entry; half: its place in the history buffer, if ``kept``, and whether values
    are wanted or keys; ahead: it is only to be kept.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            {
                "token": TOKEN_BITS,
                "score": bits_for_index(machine.score_entries // QUERY_LANES),
                "half": Half(machine),
                "kept": 1,
                "ahead": 1,
            }
        )


class Wanted(data.StructLayout):
    """An :class:`Entry` and its place in the port's pool."""

    def __init__(self, machine: Machine) -> None:
        super().__init__({"place": PLACE_BITS, "entry": Entry(machine)})


class EntryRequests(Component):
    """Wanted entries one at a time: misses are asked for, hits go on, what is wanted ahead and held or no longer wanted is dropped.

    Latency: 1 cycle from a wanted entry to its hit or its end, 2 to its run. Throughput: an entry every other cycle, of those asked
    for one in three.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        entries = stream.Signature(Entry(machine))
        self.wanted = given(stream.Signature(Wanted(machine)), "entries to fetch")
        self.filling = given(1, "what is wanted ahead may still be asked for, level")
        self.clearing = given(1, "the history buffer will be cleared in the next cycle, nothing is taken then")
        self.held = given(1, "it holds the entry taken last")
        self.heads = given(Heads(machine), "the model's heads")
        self.pool = given(Pool(machine), "where entries lie")
        self.taken = gives(1, "an entry is taken, one cycle")
        self.entry = gives(Entry(machine), "the entry taken last")
        self.runs = gives(stream.Signature(Run(machine)), "runs of beats wanted")
        self.misses = gives(entries, "entries asked for; each in the cycle of its run")
        self.hits = gives(entries, "entries held")
        self.dropped = gives(1, "an entry wanted ahead is dropped")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        busy, block, entry = Signal(), Signal(ADDRESS_BITS), self.entry  # from the pool's base to the block, 64-byte units
        unit_beats = ADDRESS_UNIT // self.machine.beat_bytes
        given_up, asking, missed = Signal(), Signal(), Signal()
        place, free, gone = Signal(PLACE_BITS), Signal(init=1), Signal()
        m.d.comb += [
            self.wanted.ready.eq(free),
            self.taken.eq(self.wanted.valid & self.wanted.ready),
            given_up.eq(entry.ahead & ~self.filling),
            asking.eq(busy & missed & ~given_up),
            self.dropped.eq(busy & entry.ahead & (self.held | given_up)),
            self.runs.valid.eq(asking & self.misses.ready),
            self.runs.payload.beat.eq(
                ((self.pool.base + block)[:ADDRESS_BITS] << (unit_beats.bit_length() - 1))
                + Mux(entry.half.values, self.heads.key_beats, 0)
            ),
            self.runs.payload.count.eq(Mux(entry.half.values, self.heads.kv_words, self.heads.key_beats)),
            self.misses.valid.eq(asking & self.runs.ready),
            self.misses.payload.eq(entry),
            self.hits.valid.eq(busy & self.held & ~entry.ahead),
            self.hits.payload.eq(entry),
        ]
        # The place comes out of the map's memory, in front of the multiplier; a run waits for its product, not for the look-up.
        m.d.sync += [block.eq(place * self.pool.entry), missed.eq(busy & ~self.held)]
        with m.If(self.taken):
            m.d.sync += [place.eq(self.wanted.payload.place), entry.eq(self.wanted.payload.entry), busy.eq(1)]
        with m.Elif(gone):
            m.d.sync += busy.eq(0)
        m.d.comb += gone.eq((self.runs.valid & self.runs.ready) | self.dropped | (self.hits.valid & self.hits.ready))
        m.d.sync += free.eq(~self.taken & (~busy | gone) & ~self.clearing)
        return m
