"""ATTEND: lists the queries, walks the KV map and the phases; wiring of the attention parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import bits_for_index, count_shape, delay_valid, tree
from hw.component import Component, given, gives
from hw.control.issue import Issue, field
from hw.kv.blocks import QueryBlocks
from hw.kv.divide import Divide
from hw.kv.fetch import KvFetch, Loader
from hw.kv.map import MapEntry, MapWalk
from hw.kv.phases import Phase
from hw.kv.port import AttentionPort
from hw.kv.query import QueryMemory, QueryWrites
from hw.kv.reduce import Reduction
from hw.kv.shapes import HeadShapes
from hw.kv.walk import KvWalk, SoftmaxWalk
from hw.library import Library
from hw.memory.buffer import WordWrite
from skipopu.isa.spec import ATTEND, BUFFER_UNIT, AlignTarget
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.numerics.align import ALIGNED_BITS


class AttentionUnit(Component):
    """Keys of all mapped entries, then their values with the probabilities a round ahead, then the divisions.

    Drives the attention side of ``tiles``.

    Latency: 1 cycle from ``active`` to the listing of the queries, whose end starts the keys 2 cycles later; 1 from the last key's
    scores to the phase of values. Throughput: a step of keys or values and a probability per cycle, then a word of results.

    Parameters:
        machine: the machine.
        tiles: per port, its tile (or what stands for it).
        library: takes the modules that occur once per port or element.
    """

    def __init__(self, machine: Machine, tiles: Sequence[Any], library: Library) -> None:
        self.machine, self.tiles, self.library = machine, tiles, library
        shapes, ports = HeadShapes(machine), range(machine.ports)
        self.writes = given(QueryWrites(machine), "aligned queries", "{}")
        self.clear_queries = given(1, "every slot's queries start with their first head")
        self.loaders = [gives(Loader(machine), f"port {p}'s loader", f"{{}}_{p}") for p in ports]
        self.active = given(1, "the instruction runs, level")
        self.instruction = given(Issue(machine), "the ATTEND")
        self.done = gives(1, "it is done, one cycle")
        self.digest = gives(32, "signature of what it wrote")
        self.kv_heads = given(shapes.kv_heads, "KV heads")
        self.query_group = given(shapes.query_group, "queries per KV head")
        self.head_dim = given(shapes.head_dim, "elements of a head")
        self.kv_base = given(32, "address of the pool of entries, 64-byte units")
        self.kv_entry = given(shapes.kv_entry, "size of an entry, 64-byte units")
        self.restart = given(1, "forget every entry, one cycle")
        self.history = given(count_shape(machine.history_slots), "slots used of each port's history buffer")
        self.may_prefetch = given(1, "entries may be asked for ahead of their instruction")
        self.row_start = given(1, "a layer begins, one cycle")
        self.row_end = given(1, "its instruction was dispatched")
        self.next_row = given(24, "the layer's row of the map, with row_start")
        self.known = given(24, "tokens that it maps")
        self.unwritten = given(1, "entries of the instruction's own tokens are not written yet")
        self.background = gives(1, "requests are not urgent")
        self.quiet = gives(1, "nothing is being fetched ahead of an instruction")
        self.hits = gives(count_shape(machine.ports), "beats that came from the history buffers")
        self.fetched_ahead = gives(count_shape(machine.ports), "beats that came ahead of their instruction")
        self.map_read_address = gives(bits_for_index(machine.map_entries), "entry of the map to read")
        self.map_read_data = given(MapEntry(), "that entry, a cycle later")
        self.phase = gives(Phase(), "phase", "{}")
        self.query = gives(ALIGNED_BITS * machine.kv_lanes * QUERY_LANES, "the step's four queries, a cycle after it")
        self.words = gives(stream.Signature(WordWrite(machine)), "results, to the buffer; always accepted")
        self.serial = given(1, "the parts one after another")
        self.pause = given(1, "no more results for now")
        self.finish = gives(1, "everything is written and to be aligned, level")
        self.aligned = given(1, "the aligner is done")
        self.working = gives(1, "a step is done")
        self.waiting = gives(1, "a step waits for memory")
        self.saturated = gives(1, "a number was clipped")
        self.range = gives(1, "a query went beyond the query memory")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, tiles = self.machine, self.tiles
        m.submodules.queries = queries = QueryMemory(machine)
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
        connect(m, flipped(self.writes), queries.writes)
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
        connect(m, self.phase, entries.phase, walk.phase, reduction.phase, *(fetch.phase for fetch in fetches))
        more = Mux(self.phase.values, ~entries.values_requested, ~entries.keys_requested)
        m.d.comb += [
            # An entry that its port cannot take yet is the port's next: the port has entries pending.
            walk.last_entries.eq(~more | entries.blocked),
            walk.weighed.eq(softmax.weighed),
            softmax.values.eq(self.phase.values),
            softmax.serial.eq(self.serial),
            softmax.kv_heads.eq(self.kv_heads),
            softmax.block_count.eq(blocks.count),
            softmax.written.eq(delay_valid(m, softmax.head_weighed, AttentionPort.WRITTEN - 1, "probabilities_written")),
            softmax.head_end.eq(walk.head_end & self.phase.values),
            softmax.round_end.eq(walk.round_end & self.phase.values),
            reduction.softmax_step.eq(softmax.step),
            reduction.softmax_first_round.eq(softmax.first_round),
            walk.kv_heads.eq(self.kv_heads),
            walk.head_beats.eq(head_beats),
            walk.header_beats.eq(header_beats),
            walk.block_count.eq(blocks.count),
            reduction.step.eq(walk.step),
            reduction.first_round.eq(walk.first_round),
            reduction.sum_number.eq(walk.sum_number),
        ]
        for k in range(blocks.blocks):
            block = blocks.block[k]
            m.d.comb += [walk.block[k].eq(block), softmax.block[k].eq(block), divide.block[k].eq(block)]
            m.d.comb += divide.addresses[k].eq(blocks.addresses[k])
        for p, tile in enumerate(tiles):
            here, fetch = entries.port == p, fetches[p]
            connect(m, flipped(self.loaders[p]), fetch.loader)
            m.d.comb += [
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
                tile.keys.eq(self.phase.keys),
                tile.values.eq(self.phase.values),
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
                reduction.score_keys[p].eq(tile.score_keys),
                reduction.value_exponents[p].eq(tile.value_exponents),
                reduction.weight[p].eq(tile.weight),
                reduction.products[p].eq(tile.products),
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
                (self.phase.keys | self.phase.values)
                & ~self.working
                & (self.phase.keys | softmax.weighed)
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
                m.d.comb += self.phase.keys.eq(1)
                with m.If(entries.keys_requested & quiet):
                    m.next = "VALUES START"
            with m.State("VALUES START"):
                m.next = "VALUES"
            with m.State("VALUES"):
                m.d.comb += self.phase.values.eq(1)
                with m.If(entries.values_requested & quiet & softmax.idle & ~softmax.left.any()):
                    m.d.comb += divide.start.eq(1)
                    m.next = "DIVIDE"
            with m.State("DIVIDE"):
                with m.If(divide.done):
                    m.next = "IDLE"
        return m
