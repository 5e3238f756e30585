"""ATTEND: lists the queries, walks the KV map and the phases; wiring of the attention parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import count_shape, delay_valid, registered, tree
from hw.component import Component, given, gives
from hw.control.issue import Issue, field
from hw.kv.blocks import QueryBlocks
from hw.kv.divide import Divide
from hw.kv.fetch import KvFetch, Loader
from hw.kv.heads import HeadSizes
from hw.kv.lockstep import EARLIEST, EARLIEST_SHAPE, EXPONENT_BITS
from hw.kv.map import Layer, MapRead, MapWalk
from hw.kv.phases import Phases
from hw.kv.port import AttentionPort
from hw.kv.query import QueryMemory, QueryWrites
from hw.kv.reduce import Reduction
from hw.kv.shapes import HeadShapes, Pool
from hw.kv.soft_cap import SoftCap, behind
from hw.kv.softmax import SoftmaxWalk
from hw.kv.stationary.walk import HeldWalk
from hw.kv.walk import KvWalk
from hw.library import Library
from hw.memory.buffer import WordWrite
from hw.pe.slice import Slice
from skipopu.isa.spec import ATTEND, BUFFER_UNIT, AlignTarget
from skipopu.machine import pipeline
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.numerics.align import ALIGNED_BITS


class Tile(Protocol):
    """What of :class:`hw.pe.tile.Tile` attention uses."""

    attention: AttentionPort
    slice: Slice


Statements = list[Any]


class Share(NamedTuple):
    """What a port takes of its entries: a beat, an entry's last one; who waits for whom; other statements; the entry and the step that it is
    at; the weighted values that it gives."""

    pop: Value
    end: Value
    waiting: Statements
    others: Statements
    present: Any
    step: Any
    products: Value


class AttentionUnit(Component):
    """Keys of all mapped entries, then their values with the probabilities a round ahead, then the divisions.

    Drives the attention side of ``tiles``.

    Latency: none from ``active`` to the listing of the queries, 2 cycles from its end to the phase of keys and from that to the phase
    of values. Throughput: a step of keys or values and a probability per cycle, then a word of results.

    Parameters:
        machine: the machine.
        tiles: per port its tile.
        library: takes the modules that occur once per port or element.
    """

    def __init__(self, machine: Machine, tiles: Sequence[Tile], library: Library) -> None:
        self.machine = machine
        shapes, ports = HeadShapes(machine), range(machine.ports)
        self.writes = given(QueryWrites(machine), "aligned queries", "{}")
        self.clear_queries = given(1, "every slot's queries start with their first head")
        self.loaders = [gives(Loader(machine), f"port {p}'s loader", f"{{}}_{p}") for p in ports]
        if machine.soft_cap:
            self.soft_cap = given(32, "factor of the scores' soft cap, FP32, 0: none; stable while an instruction runs")
        self.active = given(1, "the instruction runs, level")
        self.instruction = given(Issue(machine), "the ATTEND")
        self.done = gives(1, "it is done, one cycle")
        self.digest = gives(32, "signature of what it wrote")
        self.kv_heads = given(shapes.kv_heads, "heads of K, as many of V")
        self.query_group = given(shapes.query_group, "queries per KV head")
        self.head_dim = given(shapes.head_dim, "elements of a head")
        self.pool = given(Pool(machine), "where entries lie", "kv_{}")
        self.restart = given(1, "forget every entry, one cycle")
        self.layer = given(Layer(machine), "what entries may be asked for ahead", "{}")
        self.unwritten = given(1, "entries of the instruction's own tokens are not written yet")
        self.background = gives(1, "requests are not urgent")
        self.quiet = gives(
            1,
            "nothing was being fetched ahead of an instruction a cycle before, by any port pipeline.apart more",
        )
        self.hits = gives(count_shape(machine.ports), "beats that came from the history buffers")
        self.fetched_ahead = gives(count_shape(machine.ports), "beats that came ahead of their instruction")
        self.map = gives(MapRead(machine), "reads of the KV map", "map_read_{}")
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
        self._declare(machine)
        super().__init__()
        self.phases, self.sizes = Phases(), HeadSizes(machine)
        self.queries, self.blocks, self.entries = QueryMemory(machine), QueryBlocks(machine), MapWalk(machine)
        self.softmax, self.divide = SoftmaxWalk(machine), Divide(machine)
        self.walk, self.reduction = self._make(machine, library)
        self.fetches = [library.use("kv_fetch", lambda: KvFetch(machine), f"fetch_{p}") for p in ports]
        self.tiles = tiles
        self.earliest = Signal(EARLIEST_SHAPE)
        # What the ports' probabilities are made of
        self.maximum, self.shared_exponent = Signal(32, reset_less=True), Signal(EXPONENT_BITS, reset_less=True)
        self.head_weighed = self.softmax.head_weighed
        if machine.soft_cap:
            self.capping, self.head_weighed = Signal(), Signal()

    def elaborate(self, platform: object) -> Module:
        m, machine = Module(), self.machine
        walk, softmax, divide, phase = self.walk, self.softmax, self.divide, self.phases.phase
        for name in ("phases", "sizes", "queries", "blocks", "entries", "walk", "softmax", "reduction", "divide"):
            m.submodules[name] = getattr(self, name)
        for p, fetch in enumerate(self.fetches):
            m.submodules[f"fetch_{p}"] = fetch
        sized = (self.queries, self.blocks, self.entries, walk, softmax, divide, *self.fetches)
        connect(m, self.sizes.heads, *(unit.heads for unit in sized))
        phased = (self.entries, walk, self.reduction, *(tile.attention for tile in self.tiles))
        connect(m, phase, *(unit.phase for unit in phased))
        connect(m, self.phases.soon, *(fetch.soon for fetch in self.fetches))
        m.d.comb += [
            self.sizes.kv_heads.eq(self.kv_heads),
            self.sizes.query_group.eq(self.query_group),
            self.sizes.head_dim.eq(self.head_dim),
        ]
        self._list(m)
        if machine.soft_cap:
            self._cap(m)
        else:
            m.d.sync += [self.maximum.eq(self.reduction.maximum), self.shared_exponent.eq(self.reduction.reduced.exponent)]
        more = self._walk(m)
        for p in range(machine.ports):
            self._port(m, p)

        connect(m, divide.reduced, self.reduction.reduced)
        connect(m, flipped(self.words), divide.words)
        m.d.comb += [
            divide.clear.eq(self.phases.begin),
            divide.start.eq(self.phases.divide),
            divide.serial.eq(self.serial),
            divide.pause.eq(self.pause),
            divide.aligning.eq(field(self.instruction.word, ATTEND, "align") != AlignTarget.NONE),
            divide.aligned.eq(self.aligned),
            self.phases.divided.eq(divide.done),
            self.finish.eq(divide.finish),
            self.digest.eq(divide.digest),
            self.done.eq(divide.done),
            self.saturated.eq(
                divide.saturated
                | delay_valid(
                    m,
                    Cat(tile.attention.score_saturated for tile in self.tiles).any(),
                    pipeline.apart(machine),
                    "score_saturated",
                )
            ),
            self.working.eq(self._working()),
            self.waiting.eq(
                (phase.keys | phase.values)
                & ~self.working
                & (phase.keys | self._weighed())
                & (~walk.idle | more | self._pending())
            ),
        ]
        return m

    def _declare(self, machine: Machine) -> None:
        """Declares what another kind of array needs beside the rest."""

    def _make(self, machine: Machine, library: Library) -> tuple[KvWalk | HeldWalk, Reduction]:
        """The walk over keys and values, and what it is reduced with."""
        self.rows = KvWalk(machine)
        return self.rows, Reduction(machine, library)

    def _working(self) -> Value:
        return self.rows.round.step.work | self.rows.round.step.header

    def _weighed(self) -> Value:
        """Whether the next head of values has its probabilities."""
        return self.softmax.weighed

    def _pending(self) -> Value:
        """Whether entries of the phase wait."""
        return self.rows.pending.any()

    def _list(self, m: Module) -> None:
        """The queries: their memory, and the blocks of the listed ones."""
        queries, blocks, word = self.queries, self.blocks, self.instruction.word
        connect(m, flipped(self.writes), queries.writes)
        connect(m, self.walk.query, queries.read)
        connect(m, blocks.listed, self.walk.listed, self.softmax.listed, self.divide.listed)
        connect(m, blocks.results, self.divide.results)
        m.d.comb += [
            queries.clear.eq(self.clear_queries),
            self.query.eq(queries.data),
            self.range.eq(queries.range),
            self.phases.active.eq(self.active),
            blocks.start.eq(self.phases.begin),
            blocks.mask.eq(self.instruction.mask),
            blocks.address.eq(field(word, ATTEND, "dst") * BUFFER_UNIT),
            blocks.stride.eq(field(word, ATTEND, "stride") * BUFFER_UNIT),
            self.phases.listed.eq(blocks.done),
        ]

    def _cap(self, m: Module) -> None:
        """The softmax step that the ports weigh by, and what goes with it: behind the cap of scores if there is one."""
        softmax, reduction, capping = self.softmax, self.reduction, self.capping
        m.submodules.soft_cap = cap = SoftCap(self.machine)
        m.d.sync += [
            capping.eq(self.soft_cap != 0),
            self.maximum.eq(Mux(capping, cap.capped, reduction.maximum)),
            self.shared_exponent.eq(behind(m, capping, reduction.reduced.exponent, "capped_exponent")),
        ]
        m.d.comb += [
            cap.score.eq(reduction.maximum),
            cap.factor.eq(self.soft_cap),
            self.head_weighed.eq(behind(m, capping, softmax.head_weighed, "capped_head", valid=True)),
            reduction.weighed.first.eq(behind(m, capping, softmax.round.first, "capped_first")),
            reduction.weighed.step.eq(behind(m, capping, softmax.round.step.as_value(), "capped_step", valid=True)),
        ]

    def _walk(self, m: Module) -> Value:
        """The entries' walk over the map, the phases' walks over all ports; whether entries of the phase will be asked for."""
        entries, walk, softmax, reduction = self.entries, self.walk, self.softmax, self.reduction
        phases, values, position = self.phases, self.phases.phase.values, self.instruction.position
        if self.machine.window:
            m.d.comb += entries.window.eq(self.instruction.window)
            m.d.sync += self.earliest.eq(Mux(self.instruction.window == 0, EARLIEST, position + 1 - self.instruction.window))
        connect(m, flipped(self.layer), entries.layer)
        connect(m, flipped(self.map), entries.map)
        before, behind = self._rounds(m)
        connect(m, softmax.round, reduction.softmax)
        apart = pipeline.apart(self.machine)
        # What was asked for last waits for its round a cycle later.
        keys_requested, values_requested = (
            now & delay_valid(m, now, 1 + apart, "requested") for now in (entries.keys_requested, entries.values_requested)
        )
        quiet = [delay_valid(m, fetch.quiet, apart, f"quiet_{p}") for p, fetch in enumerate(self.fetches)]
        # Until the port that was asked last has noticed, and that is known here.
        ahead = Cat(delay_valid(m, entries.ahead, k, f"ahead_{k}") for k in range(3 * apart + 1)).any()
        more = ~Mux(values, values_requested, keys_requested)
        # What ends a phase may be seen a cycle late: sums settle later than that behind the last step.
        in_phase = phases.phase.keys | values
        over = ~registered(m, ~in_phase | ~walk.idle | self._pending(), "waits") & reduction.settled
        m.d.comb += [
            entries.restart.eq(self.restart),
            entries.start.eq(phases.start_keys),
            entries.map_row.eq(self.instruction.map_row),
            entries.own.eq(position),
            entries.last.eq(registered(m, (position + self.blocks.last_slot)[: len(entries.last)], "last")),
            entries.entry_words.eq(self.blocks.entry_words),
            entries.unwritten.eq(self.unwritten),
            entries.serial.eq(self.serial),
            entries.idle.eq(phases.idle),
            entries.taken.eq(self._want(m)),
            self.background.eq(registered(m, phases.idle, "background")),
            self.quiet.eq(registered(m, ~ahead & Cat(quiet).all(), "quiet")),
            self.hits.eq(total([registered(m, fetch.hit, "hit") for fetch in self.fetches])),
            self.fetched_ahead.eq(total([registered(m, fetch.fetched_ahead, "ahead") for fetch in self.fetches])),
            # Whoever was asked before has shown its entry by the second cycle.
            walk.last_entries.eq(
                delay_valid(m, ~more | (self._asked() & delay_valid(m, self._asked(), apart, "asked")), apart, "last")
            ),
            *before,
            softmax.values.eq(values),
            softmax.serial.eq(self.serial),
            self._written().eq(delay_valid(m, self.head_weighed, AttentionPort.WRITTEN - 1, "probabilities_written")),
            *behind,
            phases.keys_done.eq(keys_requested & registered(m, keys_requested, "keys_requested") & over),
            phases.values_done.eq(
                values_requested
                & registered(m, values_requested, "values_requested")
                & over
                & softmax.idle
                & ~delay_valid(m, softmax.left.any(), apart, "some_left")
            ),
        ]
        return more

    def _want(self, m: Module) -> Value:
        """Whether a port takes the entry that is asked for. Several ports are told a cycle later, and have said a cycle before whether they
        will have room; who was given an entry has none for the two cycles until it says so: each of several takes one in four cycles at most."""
        entries, ports = self.entries, self.machine.ports
        ready = Cat(fetch.wanted.ready for fetch in self.fetches)
        wanted, valid, has_room = entries.wanted.as_value(), entries.asking.replicate(ports) & entries.here, None
        if pipeline.apart(self.machine):
            taken = Signal(ports)
            given = delay_valid(m, taken, 1, "given")
            will_have, ready = ready & ~given, registered(m, ready & ~taken & ~given, "room")
            m.d.comb += taken.eq(valid & ready)
            wanted, valid = registered(m, wanted, "wanted"), given
            if self.machine.stationary:
                # Chosen a cycle before: of this port, or where the walk goes on, of the next one, which is not given an entry then. (Unless the
                # walk ahead begins anew with the first port while that is given one, behind a layer without attention: one entry is not fetched ahead.)
                of_this = registered(m, (entries.here & will_have).any(), "this_has_room")
                of_next = registered(m, will_have.bit_select(entries.next_port, 1), "next_has_room")
                has_room = Mux(delay_valid(m, entries.moves, 1, "moved"), of_next, of_this)
        for p, fetch in enumerate(self.fetches):
            m.d.comb += [fetch.wanted.valid.eq(valid[p]), fetch.wanted.payload.eq(wanted)]
        return entries.asking & ((entries.here & ready).any() if has_room is None else has_room)

    def _written(self) -> Signal:
        """Who counts the heads whose probabilities are in memory."""
        return self.softmax.written

    def _asked(self) -> Value:
        """Whether a round need not wait for more, although more will be asked for."""
        return self.entries.blocked  # an entry that its port cannot take yet is the port's next: the port has entries pending

    def _rounds(self, m: Module) -> tuple[Statements, Statements]:
        """What joins the walk to the others."""
        connect(m, self.rows.round, self.reduction.round)
        values = self.phases.phase.values
        return [self.rows.weighed.eq(self.softmax.weighed)], [
            self.softmax.head_end.eq(self.rows.head_end & values),
            self.softmax.round_end.eq(self.rows.round_end & values),
        ]

    def _share(self, m: Module, p: int) -> Share:
        """What port ``p`` takes of its entries, and gives."""
        fetch, walk = self.fetches[p], self.rows
        waiting = [
            walk.pending[p].eq(fetch.pending),
            walk.beats_ready[p].eq(fetch.ready),
            walk.beats_behind[p].eq(fetch.behind),
            *([walk.beats_further[p].eq(fetch.further)] if pipeline.told(self.machine) else []),
        ]
        beat = [self.tiles[p].attention.work.kv_beat.eq(fetch.beat)]
        return Share(walk.pops[p], walk.ends[p], waiting, beat, fetch.entry, walk.round.step, self.tiles[p].slice.products)

    def _port(self, m: Module, p: int) -> None:
        """Port ``p``: its entries, its tile."""
        entries, walk, softmax, reduction = self.entries, self.walk, self.softmax, self.reduction
        fetch, port = self.fetches[p], self.tiles[p].attention
        connect(m, flipped(self.loaders[p]), fetch.loader)
        connect(m, flipped(self.pool), fetch.pool)
        connect(m, port.scores, reduction.scores[p])
        share = self._share(m, p)
        m.d.comb += [
            fetch.begin.eq(self.phases.begin),
            fetch.restart.eq(self.restart),
            fetch.filling.eq(entries.filling),
            fetch.pop.eq(share.pop),
            fetch.end.eq(share.end),
            fetch.softmax_end.eq(softmax.active[p] & softmax.round.step.entry_end),
            *share.waiting,
            softmax.left[p].eq(fetch.left),
            softmax.chosen[p].eq(fetch.softmax_ready),
            *share.others,
            port.work.token.eq(share.present.token),
            port.work.score.eq(share.present.score),
            port.work.softmax_score.eq(fetch.softmax_score),
            port.work.working.eq(walk.active[p]),
            port.work.weighing.eq(softmax.active[p]),
            port.lockstep.position.eq(self.instruction.position),
            port.lockstep.kv_step.eq(share.step),
            port.lockstep.softmax_step.eq(softmax.round.step),
            port.lockstep.query_exponents.eq(self.queries.exponents),
            port.lockstep.maximum.eq(self.maximum),
            port.lockstep.shared_exponent.eq(self.shared_exponent),
            reduction.products[p].eq(share.products),
        ]
        if self.machine.window:
            m.d.comb += port.lockstep.earliest.eq(self.earliest)
        if self.machine.soft_cap:
            step = reduction.weighed.step
            m.d.comb += port.lockstep.capped.eq(Cat(step.lane, step.number, step.parity, self.capping, self.soft_cap))


def total(flags: Sequence[Value]) -> Value:
    """How many of ``flags`` are set."""
    return tree(flags, lambda a, b: a + b)
