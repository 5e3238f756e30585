"""ATTEND where multipliers keep their sums: entries wait in the weights' buffer, of whose values several are added up at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib.wiring import connect

from hw.component import gives
from hw.kv.attention import AttentionUnit, Share, Statements, Tile
from hw.kv.blocks import block_of
from hw.kv.reduce import Reduction
from hw.kv.stationary.held import HeldEntries
from hw.kv.stationary.reduce import HeldReduction
from hw.kv.stationary.walk import HeldWalk
from hw.kv.walk import KvWalk
from hw.library import Library
from hw.pe.stationary.slice import Beat, StationarySlice
from skipopu.machine.config import TOGETHER, Machine


class HeldAttention(AttentionUnit):
    """The same with the multipliers, buffers and sums of a stationary array: four queries meet keys and values in a cycle.

    Values of up to ``ENTRIES_AT_ONCE`` entries are added up in the multipliers where a KV head has several queries, half the buffer has
    room for their beats, and the memory of probabilities for two such rounds.

    Latency: as of the unit that it is a kind of, ``HeldWalk`` between the phases. Throughput: a step of four queries, a query's sums and a
    probability per cycle, then a word of results.
    """

    def __init__(self, machine: Machine, tiles: Sequence[Tile], library: Library) -> None:
        super().__init__(machine, tiles, library)
        self.held = [library.use("kv_held", lambda: HeldEntries(machine), f"held_{p}") for p in range(machine.ports)]

    def _declare(self, machine: Machine) -> None:
        self.beat = gives(Beat(machine), "what the slices multiply")
        self.lane = gives(2, "query whose sums they give")

    def _make(self, machine: Machine, library: Library) -> tuple[KvWalk | HeldWalk, Reduction]:
        self.held_walk, self.held_reduction = HeldWalk(machine), HeldReduction(machine, library)
        return self.held_walk, self.held_reduction

    def _working(self) -> Value:
        return self.held_walk.working

    def _weighed(self) -> Value:
        return self.held_walk.weighed

    def _pending(self) -> Value:
        return self.held_walk.waits

    def _written(self) -> Signal:
        return self.held_walk.written

    def _asked(self) -> Value:
        return Const(0)  # a port takes more entries than a round has

    def _rounds(self, m: Module) -> tuple[Statements, Statements]:
        walk, softmax, reduction, listed = self.held_walk, self.softmax, self.held_reduction, self.held_walk.listed
        lanes = block_of(listed, 0).lanes
        several = (listed.count > 1) | (lanes & (lanes - 1)).any()
        fits = [self.machine.adds_entries(k, self.sizes.heads.kv_words, self.blocks.entry_words) for k in TOGETHER]
        together = Signal(TOGETHER)
        m.d.sync += together.eq(Mux(several & ~self.serial, Mux(fits[2], 2, fits[1]), 0))
        return [
            walk.most.eq(together),
            softmax.together.eq(together),
            softmax.ended.eq(walk.ended),
            reduction.taken.eq(walk.taken),
            reduction.walking.eq(walk.working),
            self.beat.eq(walk.beat),
            self.lane.eq(walk.taken.lane),
        ], []

    def _share(self, m: Module, p: int) -> Share:
        walk, fetch, held, port = self.held_walk, self.fetches[p], self.held[p], self.tiles[p].attention
        kept = cast(StationarySlice, self.tiles[p].slice).entry
        m.submodules[f"held_{p}"] = held
        connect(m, self.sizes.heads, held.heads)
        connect(m, self.phases.phase, held.phase)
        connect(m, walk.progress, held.progress)
        others = [
            held.came.eq(fetch.came),
            held.came_values.eq(fetch.came_values),
            held.ready.eq(fetch.ready),
            held.present.eq(fetch.entry),
            kept.enable.eq(held.pop),
            kept.address.eq(held.address),
            kept.beat.eq(fetch.beat),
            *([kept.hit.eq(fetch.present_hit), kept.kept.eq(fetch.kept)] if self.machine.history else []),
            port.lockstep.taken.eq(walk.taken),
            port.lockstep.together.eq(walk.most),
        ]
        waiting = [walk.pending[p].eq(held.pending), walk.more[p].eq(held.more)]
        products = cast(StationarySlice, self.tiles[p].slice).chosen
        return Share(held.pop, held.end, waiting, others, held.own, walk.step, products)
