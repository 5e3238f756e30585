"""The KV map: where each token's valid entry lies, and the walk over it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import bits_for_index, count_shape, registered
from hw.component import Bundle, Component, given, gives
from hw.kv.first import FirstToken
from hw.kv.phases import Phase
from hw.kv.request import Wanted
from hw.kv.shapes import Heads, HeadShapes
from hw.widths import MAP_ROW_BITS, PLACE_BITS, POSITION_BITS, TOKEN_BITS
from skipopu.machine.config import AHEAD_STEP, Machine


class MapEntry(data.StructLayout):
    """Where a token's currently valid K and V lie: ``place`` in the pool of the token's port."""

    def __init__(self) -> None:
        super().__init__({"place": PLACE_BITS})


class MapRead(Bundle):
    """A read port of the map, seen by who reads."""

    def __init__(self, machine: Machine) -> None:
        self.address = gives(bits_for_index(machine.map_entries), "entry of the map to read")
        self.data = given(MapEntry(), "that entry, a cycle later")
        super().__init__()


class Layer(Bundle):
    """The layer that comes next, and what may be fetched for it, seen by who dispatches."""

    def __init__(self, machine: Machine) -> None:
        self.history = gives(count_shape(machine.history_slots), "slots used of each port's history buffer")
        self.may_prefetch = gives(1, "entries may be asked for ahead of their instruction")
        self.row_start = gives(1, "a layer begins, one cycle")
        self.next_row = gives(MAP_ROW_BITS, "its row of the map, with row_start")
        self.known = gives(POSITION_BITS, "tokens that it maps")
        self.row_end = gives(1, "its instruction was dispatched")
        if machine.window:
            self.next_window = gives(POSITION_BITS, "with row_start, and 3 cycles before: tokens that a query sees, 0: all")
        super().__init__()


class MapWalk(Component):
    """Asks the ports for entries: all tokens' keys, then all their values; between instructions, what the next layer will read.

    Tokens go round the ports, in a layer with a window from the first one that a query sees. An entry that its port does not take is read from the map again.
    Ahead of an instruction, from the start of its layer until it is dispatched, rounds of the ports are asked for with steps between
    them, so that hits and misses alternate later; a round's values follow its keys. Entries of the instruction's own tokens wait
    until they are written.

    Latency: 2 cycles from ``start`` to the first entry; ``window`` stands 3 cycles before. Throughput: an entry per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        shapes = HeadShapes(machine)
        self.restart = given(1, "forget that a layer began")
        self.start = given(1, "walk for the keys, one cycle")
        self.map_row = given(MAP_ROW_BITS, "the instruction's row of the map")
        self.last = given(POSITION_BITS, "its last token")
        self.phase = given(Phase(), "what attention is at", "{}")
        self.serial = given(1, "values are asked for in their own phase")
        self.heads = given(Heads(machine), "the model's heads")
        self.entry_words = given(shapes.entry_words, "score words of an entry")
        self.idle = given(1, "no instruction runs")
        self.layer = given(Layer(machine), "what entries may be asked for ahead", "{}")
        self.map = gives(MapRead(machine), "reads of the KV map")
        self.asking = gives(1, "an entry is wanted")
        self.here = gives(machine.ports, "one-hot: the port that holds it")
        self.wanted = gives(Wanted(machine), "the entry")
        self.taken = given(1, "the port takes it")
        if machine.stationary:
            self.moves = gives(1, "another entry is wanted in the next cycle, of the next port")
            self.next_port = gives(bits_for_index(machine.ports), "that one")
        self.unwritten = given(1, "an entry of the tokens from ``own`` on is not written yet")
        self.own = given(POSITION_BITS, "the instruction's first token")
        self.keys_requested = gives(1, "all keys were asked for")
        self.values_requested = gives(1, "all values were asked for")
        self.blocked = gives(1, "the port does not take its entry")
        self.ahead = gives(1, "the walk is ahead of its instruction")
        self.filling = gives(1, "what was wanted ahead may still be asked for, behind the end of the walk too")
        if machine.window:
            self.window = given(POSITION_BITS, "tokens that a query of the instruction sees, 0: all")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        entry, ahead = self.wanted.entry, self.ahead
        walking, valid, for_values, of_own, row = Signal(), Signal(), Signal(), Signal(), Signal(MAP_ROW_BITS)
        kept = Signal()
        token, score, base, slot = (
            Signal(TOKEN_BITS),
            Signal.like(entry.score),
            Signal.like(entry.half.base),
            Signal(TOKEN_BITS),
        )
        port = Signal(bits_for_index(self.machine.ports))
        # The token behind the present one
        index, next_port, next_slot = Signal(POSITION_BITS), Signal.like(port), Signal(TOKEN_BITS)
        next_score, next_base = Signal.like(score), Signal.like(base)
        at_last = Signal()  # next_port is the last port
        if self.machine.stationary:
            m.d.comb += self.next_port.eq(next_port)

        def to_port(number: Value | int) -> list[Any]:
            return [next_port.eq(number), at_last.eq(Value.cast(number) == self.machine.ports - 1)]

        first = [*(s.eq(0) for s in (index, next_slot, next_score, next_base, for_values)), *to_port(0), walking.eq(1)]
        first_ahead, some_ahead = first, self.layer.known != 0
        if self.machine.window:
            own, later = FirstToken(self.machine), FirstToken(self.machine)
            m.submodules.first, m.submodules.first_ahead = own, later
            connect(m, flipped(self.heads), own.heads, later.heads)
            m.d.comb += [
                own.position.eq(self.own),
                own.window.eq(self.window),
                later.position.eq(self.layer.known),
                later.window.eq(self.layer.next_window),
            ]
            some_ahead &= self.layer.next_window != 1
            rounds = [Signal.like(s, name=f"{s.name}_ahead") for s in (index, next_slot, next_base)]
            with m.If(self.layer.row_start):
                m.d.sync += [
                    begun.eq(value)
                    for begun, value in zip(rounds, (later.first.round, later.first.slot, later.first.base), strict=True)
                ]
            first_ahead = [*first, *(s.eq(kept) for s, kept in zip((index, next_slot, next_base), rounds, strict=True))]
            first = [
                *first,
                index.eq(own.first.token),
                *to_port(own.first.port),
                next_slot.eq(own.first.slot),
                next_base.eq(own.first.base),
            ]
        advance, stop, held_back = Signal(), Signal(), Signal()
        walked, of_row, present = ~walking & ~valid, Mux(ahead, row, self.map_row), Signal.like(self.map.address)
        m.d.sync += present.eq(self.map.address)
        m.d.comb += [
            advance.eq(self.taken),
            held_back.eq(self.unwritten & ~ahead & of_own),
            # Whether a port takes its entry is known late.
            self.map.address.eq(Mux(valid & ~advance, present, of_row + index)),
            self.keys_requested.eq(for_values | walked),
            self.values_requested.eq(for_values & walked),
            self.blocked.eq(valid & ~advance & ~held_back),
            self.asking.eq(valid & ~(ahead & stop) & ~held_back),
            self.wanted.place.eq(self.map.data.place),
            entry.token.eq(token),
            entry.score.eq(score),
            entry.half.base.eq(base),
            entry.half.slot.eq(slot),
            entry.half.values.eq(for_values),
            entry.kept.eq(kept),
            entry.ahead.eq(ahead),
        ]
        last_known: Value = self.layer.known - 1
        if self.machine.stationary:  # it stands before a layer begins
            last_known = registered(m, last_known[: len(index)], "last_known")
        last_of_round = valid & ahead & ((port == self.machine.ports - 1) | (token == last_known))
        after = token + 1 + (AHEAD_STEP - 1) * self.machine.ports
        # ``advance`` only enables: what is next is chosen by what is known early.
        with m.If(~valid | advance):
            with m.If(last_of_round):
                m.d.sync += [for_values.eq(~for_values), valid.eq(0), *to_port(0)]
                with m.If(~for_values):  # the same round's values
                    m.d.sync += [index.eq(token - port), next_slot.eq(slot), next_base.eq(base), walking.eq(1)]
                with m.Else():
                    m.d.sync += [index.eq(after), next_slot.eq(slot + AHEAD_STEP), walking.eq(after < self.layer.known)]
                    m.d.sync += next_base.eq(base + AHEAD_STEP * (self.heads.kv_words << 1))
            with m.Elif(walking):
                m.d.sync += [
                    valid.eq(1),
                    index.eq(index + 1),
                    token.eq(index),
                    of_own.eq(index >= self.own),
                    score.eq(next_score),
                    base.eq(next_base),
                    slot.eq(next_slot),
                    kept.eq(next_slot < self.layer.history),
                    port.eq(next_port),
                    self.here.eq(1 << next_port),
                    *to_port(next_port + 1),
                ]
                if self.machine.stationary:
                    m.d.comb += self.moves.eq(1)
                with m.If(at_last):
                    m.d.sync += [
                        *to_port(0),
                        next_slot.eq(next_slot + 1),
                        next_score.eq(next_score + self.entry_words),
                        next_base.eq(next_base + (self.heads.kv_words << 1)),
                    ]
                with m.If(index == Mux(ahead, last_known, self.last)):
                    m.d.sync += walking.eq(0)
            with m.Else():
                m.d.sync += valid.eq(0)
        with m.If(walked & ~for_values & (self.phase.values | (self.phase.keys & ~self.serial))):
            m.d.sync += [*first, for_values.eq(1)]
        with m.If(self.start):
            m.d.sync += first

        # Ahead of an instruction
        due = Signal()
        m.d.comb += stop.eq(self.layer.row_end | ~self.layer.may_prefetch | (valid & ~entry.kept) | walked)
        with m.If(ahead & (stop | ~self.idle)):
            m.d.sync += [ahead.eq(0), walking.eq(0), valid.eq(0)]
        with m.Elif(self.idle & due & self.layer.may_prefetch):
            m.d.sync += [*first_ahead, due.eq(0), ahead.eq(1), self.filling.eq(1)]
        with m.If(self.layer.row_end | ~self.layer.may_prefetch | ~self.idle):
            m.d.sync += self.filling.eq(0)
        with m.If(self.layer.row_start):
            m.d.sync += [due.eq((self.layer.history != 0) & some_ahead), row.eq(self.layer.next_row)]
        with m.Elif(self.layer.row_end | self.restart):
            m.d.sync += due.eq(0)
        return m
