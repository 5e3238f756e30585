"""ATTEND: lists the queries, walks the KV map and the phases; wiring of the attention parts."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.pipeline import bits_for_index, count_shape, delay_valid, tree
from hw.control.issue import Issue, field
from hw.kv.blocks import QueryBlocks
from hw.kv.divide import Divide
from hw.kv.fetch import KvFetch
from hw.kv.map import MapEntry, MapWalk
from hw.kv.port import AttentionPort
from hw.kv.query import QUERY_WRITES, QueryMemory
from hw.kv.reduce import Reduction
from hw.kv.shapes import HeadShapes
from hw.kv.walk import KvWalk, SoftmaxWalk
from hw.library import Library
from hw.memory.buffer import WordWrite
from hw.memory.reader import Run
from skipopu.isa.spec import ATTEND, BUFFER_UNIT, AlignTarget
from skipopu.machine.config import Machine


class AttentionUnit(Component):
    """Keys of all mapped entries, then their values with the probabilities a round ahead, then the divisions.

    Drives the attention side of ``tiles``. Members: active, instruction (in), done, digest (out); configuration; the query
    memory's write side; map_read_*; runs_p, beats_p, level_p (loaders of the ports); restart, history, may_prefetch, row_start,
    next_row, known, row_end (in, see :class:`hw.kv.map.MapWalk`); background (out: requests are not urgent), quiet (out: none is
    under way ahead of an instruction), hits, fetched_ahead (out, for the counters); keys, values (out: phase, for the slices);
    query (out: four banks, one cycle after a step); words (out stream, to the buffer); serial (in: the parts one after another);
    pause, finish, aligned (see :class:`hw.kv.divide.Divide`); working, waiting (out, for the counters); saturated, range (out).
    """

    def __init__(self, machine: Machine, tiles: Sequence[object], library: Library) -> None:
        self.machine, self.tiles, self.library = machine, tiles, library
        self.queries = QueryMemory(machine)
        members = {name: self.queries.signature.members[name] for name in QUERY_WRITES}
        members["clear_queries"] = In(1)
        shapes = HeadShapes(machine)
        for p in range(machine.ports):
            members[f"runs_{p}"] = Out(stream.Signature(Run(machine)))
            members[f"beats_{p}"] = In(stream.Signature(machine.port_bits))
            members[f"level_{p}"] = In(count_shape(machine.kv_fifo))
        super().__init__(
            {
                **members,
                "active": In(1),
                "instruction": In(Issue(machine)),
                "done": Out(1),
                "digest": Out(32),
                "kv_heads": In(shapes.kv_heads),
                "query_group": In(shapes.query_group),
                "head_dim": In(shapes.head_dim),
                "kv_base": In(32),
                "kv_entry": In(shapes.kv_entry),
                "restart": In(1),
                "history": In(count_shape(machine.history_slots)),
                "may_prefetch": In(1),
                "row_start": In(1),
                "row_end": In(1),
                "next_row": In(24),
                "known": In(24),
                "unwritten": In(1),
                "background": Out(1),
                "quiet": Out(1),
                "hits": Out(count_shape(machine.ports)),
                "fetched_ahead": Out(count_shape(machine.ports)),
                "map_read_address": Out(bits_for_index(machine.map_entries)),
                "map_read_data": In(MapEntry()),
                "keys": Out(1),
                "values": Out(1),
                "query": Out(self.queries.data.shape()),
                "words": Out(stream.Signature(WordWrite(machine))),
                "serial": In(1),
                "pause": In(1),
                "finish": Out(1),
                "aligned": In(1),
                "working": Out(1),
                "waiting": Out(1),
                "saturated": Out(1),
                "range": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, tiles, queries = self.machine, self.tiles, self.queries
        m.submodules.queries = queries
        m.submodules.blocks = blocks = QueryBlocks(machine)
        m.submodules.entries = entries = MapWalk(machine)
        m.submodules.walk = walk = KvWalk(machine)
        m.submodules.softmax = softmax = SoftmaxWalk(machine)
        m.submodules.reduction = reduction = Reduction(machine, self.library)
        m.submodules.divide = divide = Divide(machine)
        begin = Signal()
        word = self.instruction.word

        # Shape of heads and entries
        lanes, beat_shift, shapes = machine.kv_lanes, (machine.beat_bytes - 1).bit_length(), HeadShapes(machine)
        head_beats, header_beats = Signal(shapes.head_beats), Signal(shapes.header_beats)
        kv_words, entry_words = Signal(shapes.kv_words), Signal(shapes.entry_words)
        m.d.sync += [
            head_beats.eq((self.head_dim + (lanes - 1)) >> (lanes.bit_length() - 1)),
            header_beats.eq((2 * self.kv_heads + (machine.beat_bytes - 1)) >> beat_shift),
            kv_words.eq(self.kv_heads * head_beats),
            entry_words.eq(self.kv_heads * blocks.count),
        ]

        # Queries
        for name in QUERY_WRITES:
            m.d.comb += getattr(queries, name).eq(getattr(self, name))
        m.d.comb += [
            queries.clear.eq(self.clear_queries),
            queries.query_group.eq(self.query_group),
            queries.head_beats.eq(head_beats),
            queries.kv_words.eq(kv_words),
            queries.address.eq(walk.query_address),
            queries.exponent_address.eq(walk.exponent_address),
            self.query.eq(queries.data),
            self.range.eq(queries.range),
            blocks.start.eq(begin),
            blocks.mask.eq(self.instruction.mask),
            blocks.query_group.eq(self.query_group),
            blocks.head_dim.eq(self.head_dim),
            blocks.kv_words.eq(kv_words),
            blocks.address.eq(field(word, ATTEND, "dst") * BUFFER_UNIT),
            blocks.stride.eq(field(word, ATTEND, "stride") * BUFFER_UNIT),
        ]

        fetches = [self.library.use("kv_fetch", lambda: KvFetch(machine), f"fetch_{p}") for p in range(machine.ports)]
        for p, fetch in enumerate(fetches):
            m.submodules[f"fetch_{p}"] = fetch

        # The entries' walk over the map
        accepted, idle = Signal(machine.ports), Signal()
        for name in ("restart", "history", "may_prefetch", "row_start", "next_row", "known", "row_end", "unwritten"):
            m.d.comb += getattr(entries, name).eq(getattr(self, name))
        m.d.comb += [
            entries.map_row.eq(self.instruction.map_row),
            entries.own.eq(self.instruction.position),
            entries.last.eq(self.instruction.position + blocks.last_slot),
            entries.keys.eq(self.keys),
            entries.values.eq(self.values),
            entries.serial.eq(self.serial),
            entries.kv_words.eq(kv_words),
            entries.entry_words.eq(entry_words),
            entries.idle.eq(idle),
            entries.taken.eq(entries.asking & accepted.any()),
            entries.read_data.eq(self.map_read_data),
            self.map_read_address.eq(entries.read_address),
            self.background.eq(idle),
            self.quiet.eq(~entries.ahead & Cat(fetch.quiet for fetch in fetches).all()),
            self.hits.eq(tree([fetch.hit for fetch in fetches], lambda a, b: a + b)),
            self.fetched_ahead.eq(tree([fetch.fetched_ahead for fetch in fetches], lambda a, b: a + b)),
        ]

        # The phases' walk over all ports
        more = Mux(self.values, ~entries.values_requested, ~entries.keys_requested)
        m.d.comb += [
            walk.keys.eq(self.keys),
            walk.values.eq(self.values),
            # An entry that its port cannot take yet is the port's next: the port has entries pending.
            walk.last_entries.eq(~more | entries.blocked),
            walk.weighed.eq(softmax.weighed),
            softmax.values.eq(self.values),
            softmax.serial.eq(self.serial),
            softmax.kv_heads.eq(self.kv_heads),
            softmax.block_count.eq(blocks.count),
            softmax.written.eq(delay_valid(m, softmax.head_weighed, AttentionPort.WRITTEN - 1, "probabilities_written")),
            softmax.head_end.eq(walk.head_end & self.values),
            softmax.round_end.eq(walk.round_end & self.values),
            reduction.softmax_step.eq(softmax.step),
            reduction.softmax_first_round.eq(softmax.first_round),
            walk.kv_heads.eq(self.kv_heads),
            walk.head_beats.eq(head_beats),
            walk.header_beats.eq(header_beats),
            walk.block_count.eq(blocks.count),
            reduction.step.eq(walk.step),
            reduction.first_round.eq(walk.first_round),
            reduction.sum_number.eq(walk.sum_number),
            reduction.keys.eq(self.keys),
            reduction.values.eq(self.values),
        ]
        for k in range(blocks.blocks):
            block = getattr(blocks, f"block_{k}")
            m.d.comb += [
                getattr(walk, f"block_{k}").eq(block),
                getattr(softmax, f"block_{k}").eq(block),
                getattr(divide, f"block_{k}").eq(block),
                getattr(divide, f"addresses_{k}").eq(getattr(blocks, f"addresses_{k}")),
            ]
        for p, tile in enumerate(tiles):
            runs, beats = getattr(self, f"runs_{p}"), getattr(self, f"beats_{p}")
            here, fetch = entries.port == p, fetches[p]
            m.d.comb += [
                runs.valid.eq(fetch.runs.valid),
                runs.payload.eq(fetch.runs.payload),
                fetch.runs.ready.eq(runs.ready),
                fetch.beats.valid.eq(beats.valid),
                fetch.beats.payload.eq(beats.payload),
                beats.ready.eq(fetch.beats.ready),
                fetch.level.eq(getattr(self, f"level_{p}")),
                fetch.keys.eq(self.keys),
                fetch.values.eq(self.values),
                fetch.begin.eq(begin),
                fetch.restart.eq(self.restart),
                fetch.filling.eq(entries.ahead),
                fetch.wanted.valid.eq(entries.asking & here),
                fetch.wanted.payload.eq(entries.wanted),
                accepted[p].eq(fetch.wanted.ready & here),
                fetch.header_beats.eq(header_beats),
                fetch.kv_words.eq(kv_words),
                fetch.kv_base.eq(self.kv_base),
                fetch.kv_entry.eq(self.kv_entry),
                fetch.pop.eq(walk.active[p] & walk.step.pop),
                fetch.end.eq(walk.active[p] & walk.step.entry_end),
                fetch.softmax_end.eq(softmax.active[p] & softmax.step.entry_end),
                tile.keys.eq(self.keys),
                tile.values.eq(self.values),
                tile.kv_beat.eq(fetch.beat),
                tile.token.eq(fetch.entry.token),
                tile.score.eq(fetch.entry.score),
                tile.softmax_score.eq(fetch.softmax_score),
                tile.position.eq(self.instruction.position),
                tile.kv_step.eq(walk.step),
                tile.working.eq(walk.active[p]),
                tile.softmax_step.eq(softmax.step),
                tile.weighing.eq(softmax.active[p]),
                softmax.left[p].eq(fetch.left),
                softmax.chosen[p].eq(fetch.softmax_ready),
                tile.query_exponents.eq(queries.exponents),
                tile.maximum.eq(reduction.maximum),
                tile.shared_exponent.eq(reduction.exponent),
                walk.pending[p].eq(fetch.pending),
                walk.beats_ready[p].eq(fetch.ready),
                *(getattr(reduction, f"{n}_{p}").eq(getattr(tile, n)) for n in ("score_keys", "value_exponents", "weight")),
                getattr(reduction, f"products_{p}").eq(tile.products),
            ]

        # Results
        m.d.comb += [
            divide.clear.eq(begin),
            divide.kv_heads.eq(self.kv_heads),
            divide.head_dim.eq(self.head_dim),
            divide.block_count.eq(blocks.count),
            divide.kv_offset.eq(blocks.kv_offset),
            reduction.read_number.eq(divide.read_number),
            reduction.read_lane.eq(divide.read_lane),
            reduction.sum_address.eq(divide.sum_address),
            reduction.sum_lane.eq(divide.sum_lane),
            divide.serial.eq(self.serial),
            divide.pause.eq(self.pause),
            divide.aligning.eq(field(word, ATTEND, "align") != AlignTarget.NONE),
            divide.aligned.eq(self.aligned),
            self.finish.eq(divide.finish),
            divide.total.eq(reduction.total),
            divide.exponent.eq(reduction.exponent),
            divide.sums.eq(reduction.sums),
            self.words.valid.eq(divide.words.valid),
            self.words.payload.eq(divide.words.payload),
            self.digest.eq(divide.digest),
            self.done.eq(divide.done),
            self.saturated.eq(divide.saturated | Cat(tile.score_saturated for tile in tiles).any()),
        ]

        m.d.comb += [
            self.working.eq(walk.step.work | walk.step.header),
            self.waiting.eq(
                (self.keys | self.values)
                & ~self.working
                & (self.keys | softmax.weighed)
                & (~walk.idle | more | walk.pending.any())
            ),
        ]
        quiet = walk.idle & ~walk.pending.any() & reduction.settled
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += idle.eq(1)
                with m.If(self.active):
                    m.d.comb += begin.eq(1)
                    m.next = "LIST"
            with m.State("LIST"):
                with m.If(blocks.done):
                    m.next = "KEYS START"
            with m.State("KEYS START"):
                m.d.comb += entries.start.eq(1)
                m.next = "KEYS"
            with m.State("KEYS"):
                m.d.comb += self.keys.eq(1)
                with m.If(entries.keys_requested & quiet):
                    m.next = "VALUES START"
            with m.State("VALUES START"):
                m.next = "VALUES"
            with m.State("VALUES"):
                m.d.comb += self.values.eq(1)
                with m.If(entries.values_requested & quiet & softmax.idle & ~softmax.left.any()):
                    m.d.comb += divide.start.eq(1)
                    m.next = "DIVIDE"
            with m.State("DIVIDE"):
                with m.If(divide.done):
                    m.next = "IDLE"
        return m
