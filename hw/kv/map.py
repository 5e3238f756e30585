"""The KV map: where each token's valid entry lies, and the walk over it."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.pipeline import bits_for_index, count_shape
from hw.kv.fetch import Wanted
from hw.kv.shapes import HeadShapes
from skipopu.machine.config import AHEAD_STEP, Machine

POSITION_BITS = 24


class MapEntry(data.StructLayout):
    """Where a token's currently valid K and V lie: ``place`` in the pool of the token's port."""

    def __init__(self) -> None:
        super().__init__({"place": 20})


class MapWalk(Component):
    """Asks the ports for entries: all tokens' keys, then all their values; between instructions, what the next layer will read.

    Tokens go round the ports. The memory answers one cycle after the address; an entry that its port does not take is read again.
    Ahead of an instruction, from the start of its layer until it is dispatched, rounds of the ports are asked for with steps between
    them, so that hits and misses alternate later; a round's values follow its keys. Entries of the instruction's own tokens wait until they are written.

    Members: restart (in); start (in: walk for the keys, one cycle), map_row, last (in: of the instruction, its last token), keys,
    values (in: phases), serial (in: values are asked for in their own phase); kv_words, entry_words (in: beats of K, score words of an
    entry); history (in: slots used per port); idle (in: between instructions), may_prefetch (in), row_start, next_row, known (in: a
    layer begins, its row of the map, how many tokens it maps), row_end (in: its instruction was dispatched); read_address,
    read_data (the map); unwritten, own (in: an entry of tokens from ``own`` on is not written yet); asking, port, wanted (out: an entry for a port), taken (in: by that port); keys_requested,
    values_requested (out: all of them), blocked (out: a port does not take its entry), ahead (out).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        shapes = HeadShapes(machine)
        super().__init__(
            {
                "restart": In(1),
                "start": In(1),
                "map_row": In(POSITION_BITS),
                "last": In(POSITION_BITS),
                "keys": In(1),
                "values": In(1),
                "serial": In(1),
                "kv_words": In(shapes.kv_words),
                "entry_words": In(shapes.entry_words),
                "history": In(count_shape(machine.history_slots)),
                "idle": In(1),
                "may_prefetch": In(1),
                "row_start": In(1),
                "next_row": In(POSITION_BITS),
                "known": In(POSITION_BITS),
                "row_end": In(1),
                "read_address": Out(bits_for_index(machine.map_entries)),
                "read_data": In(MapEntry()),
                "asking": Out(1),
                "port": Out(bits_for_index(machine.ports)),
                "wanted": Out(Wanted(machine)),
                "taken": In(1),
                "unwritten": In(1),
                "own": In(POSITION_BITS),
                "keys_requested": Out(1),
                "values_requested": Out(1),
                "blocked": Out(1),
                "ahead": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        entry, ahead = self.wanted.entry, self.ahead
        walking, valid, for_values, row = Signal(), Signal(), Signal(), Signal(POSITION_BITS)
        token, score, base, slot = Signal(20), Signal.like(entry.score), Signal.like(entry.half.base), Signal(20)
        # The token behind the present one
        index, next_port, next_slot = Signal(POSITION_BITS), Signal.like(self.port), Signal(20)
        next_score, next_base = Signal.like(score), Signal.like(base)
        first = [*(s.eq(0) for s in (index, next_port, next_slot, next_score, next_base, for_values)), walking.eq(1)]
        advance, stop, held_back = Signal(), Signal(), Signal()
        walked = ~walking & ~valid
        m.d.comb += [
            advance.eq(self.taken),
            held_back.eq(self.unwritten & ~ahead & (token >= self.own)),
            self.read_address.eq(Mux(ahead, row, self.map_row) + Mux(valid & ~advance, token, index)),
            self.keys_requested.eq(for_values | walked),
            self.values_requested.eq(for_values & walked),
            self.blocked.eq(valid & ~advance & ~held_back),
            self.asking.eq(valid & ~(ahead & stop) & ~held_back),
            self.wanted.place.eq(self.read_data.place),
            entry.token.eq(token),
            entry.score.eq(score),
            entry.half.base.eq(base),
            entry.half.slot.eq(slot),
            entry.half.values.eq(for_values),
            entry.kept.eq(slot < self.history),
            entry.ahead.eq(ahead),
        ]
        with m.If(walking & (~valid | advance)):
            m.d.sync += [
                valid.eq(1),
                index.eq(index + 1),
                token.eq(index),
                score.eq(next_score),
                base.eq(next_base),
                slot.eq(next_slot),
                self.port.eq(next_port),
                next_port.eq(next_port + 1),
            ]
            with m.If(next_port == self.machine.ports - 1):
                m.d.sync += [
                    next_port.eq(0),
                    next_slot.eq(next_slot + 1),
                    next_score.eq(next_score + self.entry_words),
                    next_base.eq(next_base + (self.kv_words << 1)),
                ]
            with m.If(index == Mux(ahead, self.known - 1, self.last)):
                m.d.sync += walking.eq(0)
        with m.Elif(advance):
            m.d.sync += valid.eq(0)
        last_of_round = (self.port == self.machine.ports - 1) | (token == self.known - 1)
        after = token + 1 + (AHEAD_STEP - 1) * self.machine.ports
        with m.If(self.taken & ahead & last_of_round):
            m.d.sync += [for_values.eq(~for_values), valid.eq(0), next_port.eq(0)]
            with m.If(~for_values):  # the same round's values
                m.d.sync += [index.eq(token - self.port), next_slot.eq(slot), next_base.eq(base), walking.eq(1)]
            with m.Else():
                m.d.sync += [index.eq(after), next_slot.eq(slot + AHEAD_STEP), walking.eq(after < self.known)]
                m.d.sync += next_base.eq(base + AHEAD_STEP * (self.kv_words << 1))
        with m.If(walked & ~for_values & (self.values | (self.keys & ~self.serial))):
            m.d.sync += [*first, for_values.eq(1)]
        with m.If(self.start):
            m.d.sync += first

        # Ahead of an instruction
        due = Signal()
        m.d.comb += stop.eq(self.row_end | ~self.may_prefetch | (valid & ~entry.kept) | walked)
        with m.If(ahead & (stop | ~self.idle)):
            m.d.sync += [ahead.eq(0), walking.eq(0), valid.eq(0)]
        with m.Elif(self.idle & due & self.may_prefetch):
            m.d.sync += [*first, due.eq(0), ahead.eq(1)]
        with m.If(self.row_start):
            m.d.sync += [due.eq((self.history != 0) & (self.known != 0)), row.eq(self.next_row)]
        with m.Elif(self.row_end | self.restart):
            m.d.sync += due.eq(0)
        return m
