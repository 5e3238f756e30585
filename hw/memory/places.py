"""Beats in the order in which they came, for a reader that says late whether it takes one."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import bits_for_index, count_shape
from hw.component import Component, given, gives


def carried(count: Signal, term: Value, carry: Value) -> Value:
    """``count`` + ``term`` + ``carry`` in one addition, behind which a late ``carry`` comes no later than in front of it."""
    return (Cat(Const(1, 1), count) + Cat(carry[0], term).as_signed()) >> 1


class BeatPlaces(Component):
    """First in, first out. The way from ``beats.ready`` is short: whether there is a beat, and another one, stand in registers.

    Latency: 2 cycles from a pushed beat to ``beats``. Throughput: a beat per cycle.

    Parameters:
        width: bits of a beat.
        depth: beats that it holds, at least 3: one of two places takes a beat every other cycle only. No more may be pushed.
    """

    def __init__(self, width: int, depth: int) -> None:
        assert depth >= 3
        self.width, self.depth = width, depth
        self.push = given(1, "a beat comes; there is a place for it")
        self.push_data = given(width, "that beat")
        self.beats = gives(stream.Signature(width), "the eldest beat")
        self.behind = gives(1, "a beat is there in the next cycle, even if the eldest is taken")
        self.further = gives(1, "and in the one after it, even if that is taken too")
        self.level = gives(count_shape(depth), "beats held")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The eldest beat stands at the memory's output, those behind it are stored.
        behind = self.depth - 1
        m.submodules.memory = memory = Memory(shape=self.width, depth=behind, init=[])
        write, read = memory.write_port(), memory.read_port()
        stored, more, moves, fetch, taken = Signal(count_shape(behind)), Signal(), Signal(), Signal(), Signal()
        # A register beside ``beats.valid`` for what counts: it shares no LUT with the enable of the memory's whole output.
        empty, there = Signal(init=1), Signal()
        single, fetched = Signal(), Signal()  # one is stored; one of those counted is not any more
        m.d.comb += [
            moves.eq(~self.beats.valid | self.beats.ready),
            fetch.eq(more & (empty | self.beats.ready)),
            taken.eq(~empty & self.beats.ready),
            there.eq(more | (~empty & ~self.beats.ready)),
            write.data.eq(self.push_data),
            write.en.eq(self.push),
            read.en.eq(moves),  # what is read where nothing is stored is not valid
            self.beats.payload.eq(read.data),
            self.behind.eq(more),
        ]
        more_next, single_next = Signal(), Signal()
        m.d.comb += [
            more_next.eq(self.push | (more & ~(fetch & single))),
            single_next.eq(Mux(self.push, Mux(fetch, single, ~more), Mux(fetch, stored == Mux(fetched, 3, 2), single))),
        ]
        m.d.sync += [
            self.beats.valid.eq(there),
            empty.eq(~there),
            fetched.eq(fetch),
            more.eq(more_next),
            single.eq(single_next),
            self.further.eq(more_next & ~single_next),
        ]
        for port, moves in ((write, self.push), (read, fetch)):
            place = Signal(bits_for_index(behind), name="produce" if port is write else "consume")
            m.d.comb += port.addr.eq(place)
            with m.If(moves):
                m.d.sync += place.eq(Mux(place == behind - 1, 0, place + 1))
        for count, less in ((stored, fetched), (self.level, taken)):
            m.d.sync += count.eq(carried(count, Mux(self.push, 0, -1), ~less))
        return m
