"""The timing engine: walks a program with a routing trace and counts cycles; no data.

A part of a layer (up to its routing decision, and behind it) whose units start from the same state with the same token lists takes
the same cycles: what it did is kept and repeated, over layers and over tokens. Times are kept relative to the dispatcher's, and
those too early to matter as equal.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.engine import QUIET, Watch
from sim.result import Retired, Routed, Timed
from sim.timeline import Span, write_perfetto
from sim.timing.costs import DISPATCH, EPILOGUE, HANDOVER, SERIAL_DIVIDE, WRITE_OVERHEAD, Attention, Costs, short_read
from sim.timing.history import History
from sim.timing.options import Options as Options
from sim.timing.product import Product, product, weight_beats
from sim.timing.stream import FIRST, NOTHING, PUSHED, READABLE, Pending, Streams
from sim.timing.writes import Burst, Bursts, Writes
from skipopu.isa.program import Program, Run
from skipopu.isa.registers import COUNTERS, PREFETCH, SERIAL_ATTENTION, WEIGHTS_ON_DEMAND, Config
from skipopu.isa.spec import (
    BLOCK_ROWS,
    BY_OPCODE,
    END,
    KVWRITE,
    MATMUL,
    OPCODE_BITS,
    ROUTE,
    AlignTarget,
    TokenList,
    Unit,
)
from skipopu.layout import KvEntry, port_of, round_up, router_record
from skipopu.machine.config import QUEUE_DEPTH
from skipopu.policy import ROUTER, SkipPolicy

name = "timing"
Fields = dict[str, int]
NONE = np.zeros(1, np.int64)
OnChunk = Callable[[int], None]  # called with the number of positions done
RECORD = 8  # of a record of check mode, besides its beats
ANSWER = 2  # cycles of a write behind its last beat
REQUEST = 6  # cycles from a product's dispatch to the first address of its weights


class State(NamedTuple):
    """Times at which something is or was done, relative to the dispatcher's; as the attributes of :class:`TimingEngine`."""

    pending: Pending
    asked: int
    sent: int
    since: int
    until: int
    route_done: int
    entries_done: int
    written: Bursts
    free: tuple[int, ...]
    finished: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Stretch:
    """What one pass through a part of the loop's body did: cycles of the dispatcher, counters, entries, the state it left."""

    cycles: int
    counters: tuple[tuple[str, int], ...]
    entries: int
    state: State


class TimingEngine:
    """Times of one run: every unit's queue, the dependence tokens between units, the weight streams."""

    def __init__(
        self, program: Program, options: Run, routed: Routed, spans: list[Span] | None = None, repeat: bool = True
    ) -> None:
        self.spans, self.repeat = spans, repeat
        self.stretches: dict[tuple[object, ...], Stretch] = {}
        self.program, self.machine, self.options = program, program.machine, options
        self.costs = Costs(program.machine)
        self.streams = Streams(program.machine)
        self.routing = routed.routing
        self.new_tokens = len(routed.tokens)
        self.config = [0] * 64
        self.now = 0  # of the dispatcher
        self.free = dict.fromkeys(Unit, 0)
        self.tokens: dict[tuple[int, int], list[int]] = {(a, b): [] for a in Unit for b in Unit}
        self.finished: dict[Unit, deque[int]] = {unit: deque(maxlen=QUEUE_DEPTH) for unit in Unit}
        self.route_done = 0
        self.pending = Pending()  # what the fullest port's weight reader remembers, relative to
        self.asked = FIRST  # when it asked for its last burst
        self.sent = FIRST  # when the memory sent that burst's last beat
        self.attended = (0, 0)  # when it last brought keys and values, which go before weights
        self.recorded = 0  # when the last record of check mode is written
        self.writes = Writes(program.machine)
        self.entries_done = 0  # when the last KVWRITE is
        self.position = self.count = self.layer = self.generated = 0
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.lists: dict[int, np.ndarray] = {}
        self.entries = 0
        self.pc = 0
        self.waited = 0  # cycles for which the present instruction stood at its queue's head
        self.trace: list[Retired] = []
        self.at_token: list[dict[str, int]] = []
        self.part: Attention | None = None  # of the present layer
        self.room = 0  # beats that could be fetched ahead of the layer before
        self.ahead = False  # whether more than that is missing for the present one
        self.parts: dict[tuple[object, ...], Attention] = {}
        self.products: dict[tuple[int, int, int], Product] = {}
        self.left: State | None = None  # the state that the part before left, where it was repeated
        opcodes = [word & (1 << OPCODE_BITS) - 1 for word in program.instructions]
        self.decoded = [(BY_OPCODE[o], BY_OPCODE[o].decode(w)) for o, w in zip(opcodes, program.instructions, strict=True)]
        model = program.model
        self.entry = KvEntry(model.num_kv_heads, model.head_dim, self.machine)
        self.history = History(program, self.routing, self.entry)
        # Of the loop: fields of its KVWRITE; see undecided().
        self.kvwrites: Fields = {"late": 0, "list": 0}
        self.ahead_beats: dict[int, NDArray[np.int64]] = {}

    # What each unit instruction costs; the methods also count what the unit is busy with.

    def aligned(self, target: int, slots: int, elements: int, spacing: int) -> int:
        """Cycles behind the last write until ``slots`` vectors are aligned."""
        if target == AlignTarget.NONE:
            return 0
        query = target == AlignTarget.QUERY
        group = self.config[Config.HEAD_DIM if query else Config.GROUP]
        padded = round_up(group, self.machine.kv_lanes) if query else group
        self.counters["ALIGN_BUSY"] += self.costs.align_busy(slots, elements, group, padded)
        return self.costs.align_tail(slots, padded, spacing, elements % group == 0, target == AlignTarget.RESIDUAL)

    def vector(self, busy: int, memory: int, cycles: int, read: int = 0, written: int = 0) -> int:
        """Books an instruction of the vector unit; returns its cycles."""
        self.book("VECTOR", busy, cycles, MEMORY=memory)
        self.counters["READ_BEATS"] += read
        self.counters["WRITE_BEATS"] += written
        return cycles

    def book(self, unit: str, busy: int, cycles: int, **stalls: int) -> None:
        self.counters[f"{unit}_BUSY"] += busy
        for cause, amount in stalls.items():
            self.counters[f"{unit}_{cause}"] += amount
        self.counters[f"{unit}_EDGE"] += cycles - busy - sum(stalls.values())

    def embed(self, f: Fields, slots: int, start: int) -> int:
        half, costs = self.config[Config.HEAD_DIM] // 2, self.costs
        beat = self.machine.beat_bytes
        ports = min(self.machine.ports, -(-f["elements"] // (f["row"] * 32)))
        beats = slots * (1 + ports * f["row"] * 64 // beat + -(-8 * half // beat))
        tail = self.aligned(AlignTarget.RESIDUAL, slots, f["elements"], 1 << 20)
        if f["elements"] % self.config[Config.GROUP] == 0:
            # The last slot's group was aligned while its rotary row came.
            tail -= min(2 * half + costs.read, max(0, costs.group_cycles(self.config[Config.GROUP]) - self.machine.tokens - 1))
        cycles = costs.embed(slots, f["elements"], f["row"], half)
        busy = costs.embed_busy(slots, f["elements"], half)
        # The first layer's entries are fetched ahead meanwhile.
        ahead = self.history.missing(0, self.position, self.config[Config.HISTORY]) if self.prefetch else 0
        reads = min(3 * slots, ahead // max(1, int(costs.read * self.machine.memory.rate)))
        # The first row waits for the weights that are asked for behind the first token.
        on_demand = self.config[Config.SCHEDULE] & WEIGHTS_ON_DEMAND
        behind = 0 if on_demand else min(int(self.undecided(0)[0]), costs.in_flight) / self.machine.memory.rate
        cycles += self.writes.hold(start + costs.read, 0)
        cycles += reads * costs.behind_ahead(self.entry) + max(0, int(behind) + 2 - self.machine.memory.latency)
        return self.vector(busy, max(0, cycles - busy - 6 * slots), cycles + tail, beats)

    def align(self, f: Fields, slots: int, start: int) -> int:
        busy = self.costs.scan_busy(slots, f["elements"])
        tail = self.aligned(f["align"], slots, f["elements"], busy // slots)
        return self.vector(busy, 0, self.costs.scan(slots, f["elements"]) + tail)

    def route(self, f: Fields, slots: int, start: int) -> int:
        traced = self.traced
        read = self.costs.read
        asked = start - self.waited
        record = max(0, read + 2 + self.held(asked + read) - self.waited)  # read while the instruction waits
        waits = slots * traced * self.ahead * self.costs.behind_ahead(self.entry)
        if slots and traced:
            waits += self.held(start + record + read)
        memory = record + slots * traced * read + waits
        beats = self.costs.record_beats() + slots * traced
        return self.vector(4 * slots, memory, record + self.costs.route(slots, traced) + waits, beats)

    def kvwrite(self, f: Fields, slots: int, start: int) -> int:
        self.entries += slots
        waits = slots * -(-self.entry.beats // self.machine.longest_write) * WRITE_OVERHEAD
        cycles = self.costs.kvwrite(slots, self.count - slots, self.entry)
        if slots and self.late(f):
            held = self.free[Unit.ARRAY] - HANDOVER + self.costs.kvwrite_tail(self.entry)
            cycles = max(cycles, held - start)
        self.entries_done = start + cycles
        if not self.late(f):
            self.writes.add(self.costs.kvwrite_bursts(start, self.ports_of(f), self.entry))
        return self.vector(self.costs.kvwrite_busy(slots, self.entry), waits, cycles, 0, slots * self.entry.beats)

    def attend(self, f: Fields, slots: int, start: int) -> int:
        queries, dim = self.config[Config.QUERY_GROUP], self.config[Config.HEAD_DIM]
        serial = bool(self.config[Config.SCHEDULE] & SERIAL_ATTENTION)
        part = self.part
        assert part is not None
        spacing = queries * (dim // self.machine.vector_lanes + SERIAL_DIVIDE * serial)
        tail = self.aligned(f["align"], slots, self.entry.kv_heads * queries * dim, spacing)
        late = self.behind_weights(start, self.following())
        late += self.writes.hold(start + part.read + late)
        written = self.entries_done + part.read
        late += max(0, written + self.writes.hold(written) + part.own - start - late - part.keys)
        self.book("ATTENTION", part.busy, part.cycles + tail + late, MEMORY=part.memory + late)
        since = start + self.costs.read + late
        self.attended = since, since + part.bus
        return part.cycles + tail + late

    def due(self, requested: int) -> int:
        """When a product's first burst is asked for whose weights could be asked for at ``requested``."""
        return max(requested, self.asked + 2, self.asked + self.pending.run + 5)

    def held(self, at: int) -> int:
        """Cycles that a read of the present ROUTE waits which could come at ``at``: for writes, and weights asked for before it."""
        return max(self.writes.hold(at, 0), self.behind_weights(at - self.costs.read, int(self.undecided(self.pc)[0])))

    def following(self) -> int:
        """Beats of the first port's weights that are asked for behind the present instruction, in its layer, or places for them."""
        beats = 0
        for instruction, f in self.decoded[self.pc + 1 :]:
            if instruction is END or beats >= self.costs.in_flight:
                break
            if instruction is MATMUL and len(self.lists[f["list"]]):
                beats += int(weight_beats(self.costs, f, self.config[Config.GROUP])[0])
        return beats

    def behind_weights(self, asked: int, beats: int) -> int:
        """Cycles that what is asked for at ``asked`` waits for ``beats`` of the next products' weights, asked for before it."""
        costs, rate = self.costs, self.machine.memory.rate
        due = self.due(self.now + DISPATCH + REQUEST)
        if self.config[Config.SCHEDULE] & WEIGHTS_ON_DEMAND or due > asked:
            return 0
        last = max(due + costs.read, self.sent) + min(beats, costs.in_flight) / rate
        return max(0, int(min(last, asked + costs.in_flight / rate)) - asked - costs.read)

    def store(self, f: Fields, slots: int, start: int) -> int:
        beats = slots * -(-4 * f["elements"] // self.machine.beat_bytes)
        busy = self.costs.store_busy(slots, f["elements"])
        self.writes.add(self.costs.store_bursts(start, slots, f["elements"]))
        return self.vector(busy, slots * 2 * WRITE_OVERHEAD, self.costs.store(slots, f["elements"]), 0, beats)

    def matmul(self, f: Fields, slots: int, start: int) -> int:
        """A product that starts at ``start`` and whose weights could be requested when it was dispatched."""
        costs = self.costs
        if not f["rounds"]:
            cycles = costs.matmul_start() + EPILOGUE
            self.book("ARRAY", 0, cycles)
            return cycles
        p = self.product(f, slots)
        begin = start + costs.matmul_start()
        on_demand = self.config[Config.SCHEDULE] & WEIGHTS_ON_DEMAND
        due = self.due(start + 4 if on_demand else self.now + REQUEST)
        ref, (since, until) = self.asked, self.attended
        self.writes.forget(self.now)
        beside = self.writes.beside(ref, due, self.written_beside(start))
        stream = self.streams.flow(p.shape, self.pending, due - ref, begin - ref, (since - ref, until - ref), beside)
        tail = self.aligned(f["align"], slots, p.outputs, BLOCK_ROWS // 2)
        end = begin + stream.drained + EPILOGUE + tail
        self.book("ARRAY", p.steps, end - start, WEIGHTS=stream.end + 1 - p.steps - stream.stalled, DRAIN=stream.stalled)
        self.counters["EPILOGUE_BUSY"] += p.drains
        self.asked, self.sent, self.pending = begin + stream.asked, begin + stream.sent, stream.pending
        self.span("weights", self.program.notes[self.pc], due, begin + stream.end)
        self.counters["READ_BEATS"] += p.beats
        return end - start

    def product(self, f: Fields, slots: int) -> Product:
        """The present MATMUL with ``slots`` tokens; remembered."""
        key = (self.pc, slots, self.config[Config.GROUP])
        if key not in self.products:
            self.products[key] = product(self.costs, f, slots, self.config[Config.GROUP])
        return self.products[key]

    def written_beside(self, start: int) -> Iterable[Burst]:
        """Bursts of the entries that are written beside the product that starts at ``start``."""
        instruction, f = self.decoded[self.pc + 1]
        if instruction is not KVWRITE or self.late(f):
            return ()
        return self.costs.kvwrite_bursts(start, self.ports_of(f), self.entry)

    def ports_of(self, f: Fields) -> list[int]:
        """Ports that a KVWRITE's entries go to."""
        return [port_of(self.position + int(slot), self.machine.ports) for slot in self.lists[f["list"]]]

    def late(self, f: Fields) -> bool:
        """Whether a KVWRITE's entry is written beside attention instead."""
        return 0 < f["late"] <= self.position and self.count == 1 and len(self.lists[f["list"]]) > 0

    @property
    def prefetch(self) -> bool:
        return bool(self.config[Config.SCHEDULE] & PREFETCH)

    # The walk

    def issue(self, unit: Unit, f: Fields, name: str, pc: int) -> None:
        self.wait_route(f)
        queue = self.finished[unit]
        if len(queue) == QUEUE_DEPTH:
            self.now = max(self.now, queue[0] + 1)
        listed = self.lists[f["list"]]
        ready = start = max(self.now + HANDOVER, self.free[unit])
        for other in Unit:
            if f["pop"] >> other & 1:
                start = max(start, self.tokens[other, unit].pop(0))
        slots = len(listed)
        cycles = 0
        if slots or name == "kvwrite":
            if unit is Unit.ATTENTION:
                start = max(start, self.free[Unit.ARRAY] - HANDOVER)
            elif unit is Unit.ARRAY:
                start = max(start, self.free[Unit.ATTENTION] - HANDOVER)
            self.pc, self.waited = pc, start - ready
            cycles = getattr(self, name)(f, slots, start)
        end = start + cycles
        self.counters[f"{unit.name}_WAIT"] += start - ready
        if name == "route":
            self.route_done = end + 1
        self.free[unit] = end + HANDOVER
        self.finished[unit].append(end)
        for other in Unit:
            if f["push"] >> other & 1:
                self.tokens[unit, other].append(end + HANDOVER)
        if self.options.check:
            self.counters["WRITE_BEATS"] += self.costs.record_beats()
            self.recorded = max(self.recorded, end) + RECORD + self.costs.record_beats()
            self.writes.add([(0, self.recorded - ANSWER, self.costs.record_beats())])
            self.trace.append(Retired(pc, 0, end, self.layer, self.position))
        if cycles:
            self.span(unit.name.lower(), self.program.notes[pc], start, end)
        self.now += DISPATCH

    def wait_route(self, f: Fields) -> None:
        """The dispatcher holds an instruction with a routed list until the decision is known."""
        if f.get("list") in (TokenList.ATTENTION, TokenList.FFN) and self.now < self.route_done:
            self.counters["WAIT_ROUTE"] += self.route_done - self.now
            self.now = self.route_done

    def span(self, track: str, note: str, start: int, end: int) -> None:
        """Keeps a bar of the timeline when one is wanted."""
        if self.spans is not None:
            self.spans.append(Span(track, note.partition(": ")[2], start, end, self.layer, self.position))

    def policies(self, layer: int) -> tuple[SkipPolicy, SkipPolicy]:
        """Those of a layer's modules, from the image; a program without one has routers."""
        if not self.program.memory:
            return ROUTER, ROUTER
        first, stride = self.program.router_record
        return router_record(self.program.memory[0], first + layer * stride)[1]

    def idle(self) -> int:
        """When everything issued so far is done."""
        return max([self.now, *(times[-1] + HANDOVER for times in self.finished.values() if times)])

    # One pass through the loop's body, and its repetition

    def quiet(self) -> int:
        """When the first beat can come that is fetched ahead: behind the last weights asked for, once attention is done."""
        sent, attention = self.sent, self.free[Unit.ATTENTION]
        if self.left:
            sent, attention = self.now + self.left.sent, self.now + self.left.free[Unit.ATTENTION]
        return max(sent + PUSHED + READABLE, max(attention, self.now + REQUEST) + self.costs.read)

    def fetch_ahead(self, quiet: int) -> NDArray[np.int64]:
        """Fills the history buffer from ``quiet`` until the decision; (ports,) beats still to come then."""
        decided = self.now + self.left.route_done if self.left else self.route_done
        beats = int((decided + REQUEST + self.costs.read - quiet) * self.machine.memory.rate)
        beats = np.maximum(beats - self.undecided(0), 0)
        self.room = int(beats[0])
        begun, coming = self.history.fetch_ahead(self.layer, self.position, self.config[Config.HISTORY], beats)
        self.counters["READ_BEATS"] += begun
        self.counters["AHEAD_BEATS"] += begun
        return coming

    def read_history(self, listed: list[int], coming: NDArray[np.int64]) -> Attention | None:
        """What the present layer's attention takes, for the ``listed`` slots; counts the beats that it reads.

        ``coming``: (ports,) beats that were asked for ahead and go first.
        """
        if not listed:
            return None
        last = self.position + listed[-1] + 1
        history, ports = self.history, self.machine.ports
        hits, misses = history.attend(self.layer, last, self.config[Config.HISTORY])
        key_run, value_run = self.entry.key_beats, self.entry.beats - self.entry.key_beats
        key_hits, value_hits = hits.sum(1).tolist()
        held = key_hits * key_run + value_hits * value_run
        self.counters["READ_BEATS"] += last * self.entry.beats - held
        self.counters["HISTORY_BEATS"] += held
        keys = misses[0] * key_run + coming
        if self.late(self.kvwrites):
            keys[port_of(last - 1, ports)] += self.costs.kvwrite_bus(self.entry)
        fewest = int(hits[0].min()) if last >= ports else 0
        key = (tuple(listed), -(-last // ports), min(last, ports), (int(keys.max()), int(misses[1].max()) * value_run), fewest)
        if key not in self.parts:
            queries, dim = self.config[Config.QUERY_GROUP], self.config[Config.HEAD_DIM]
            serial = bool(self.config[Config.SCHEDULE] & SERIAL_ATTENTION)
            self.parts[key] = self.costs.attend(*key, self.entry, queries, dim, serial)
        return self.parts[key]

    def state(self) -> State:
        """Times relative to the dispatcher's; earlier than it takes to hand over, they are all the same."""
        now, early = self.now, -HANDOVER
        pending, asked = self.pending.settled(self.asked, now)
        return State(
            pending,
            max(asked - now, early) if pending == NOTHING else asked - now,
            max(self.sent - now, early),
            max(self.attended[0] - now, early),
            max(self.attended[1] - now, early),
            max(self.route_done - now, early),
            max(self.entries_done - now, early),
            self.writes.left(now, self.position),
            tuple(max(time - now, early) for time in self.free.values()),
            tuple(tuple(max(time - now, early) for time in times) for times in self.finished.values()),
            tuple(tuple(max(time - now, early) for time in times) for times in self.tokens.values()),
        )

    def undecided(self, begin: int) -> NDArray[np.int64]:
        """(ports,) or (1,) beats of the weights that are asked for without the loop's decision, from instruction ``begin`` on."""
        if begin not in self.ahead_beats:
            names = [instruction.name for instruction, _ in self.decoded]
            loop = max(begin, names.index("LOOP") if "LOOP" in names else len(names))
            decided = (TokenList.ATTENTION, TokenList.FFN)
            routed = (at for at in range(loop, len(names)) if self.decoded[at][1].get("list") in decided or names[at] == "END")
            products = [fields for instruction, fields in self.decoded[loop : next(routed, loop)] if instruction is MATMUL]
            self.ahead_beats[begin] = sum((weight_beats(self.costs, f, self.config[Config.GROUP]) for f in products), NONE)
        return self.ahead_beats[begin]

    def restore(self) -> None:
        """The inverse of :meth:`state`, when the part before was repeated."""
        if self.left is None:
            return
        now = self.now
        self.pending, asked, sent, since, until, route, entries, written, free, finished, tokens = self.left
        self.left = None
        self.asked, self.sent, self.route_done = now + asked, now + sent, now + route
        self.attended, self.entries_done = (now + since, now + until), now + entries
        self.writes.restore(written, now, self.position)
        self.free = {unit: now + time for unit, time in zip(self.free, free, strict=True)}
        for queue, times in zip(self.finished.values(), finished, strict=True):
            queue.clear()
            queue.extend(now + time for time in times)
        self.tokens = {pair: [now + time for time in times] for pair, times in zip(self.tokens, tokens, strict=True)}

    def body(self, begin: int, decided: int, end: int) -> None:
        """One pass through the instructions ``begin`` to ``end`` - 1 of the loop, for the present layer, routed before ``decided``."""
        executed = self.routing[self.layer, :, self.position : self.position + self.count]
        every = np.arange(self.count)
        self.lists[TokenList.ATTENTION], self.lists[TokenList.FFN] = every[executed[0]], every[executed[1]]
        self.traced = not isinstance(self.options.routing, str) or any(
            policy.reads_trace for policy in self.policies(self.layer)
        )
        quiet = self.quiet()
        slots = self.config[Config.HISTORY]
        self.ahead = self.prefetch and self.history.missing(self.layer, self.position, slots) > self.room
        self.repeated(begin, decided, (self.count, self.traced, self.ahead))
        coming = self.fetch_ahead(quiet) if self.prefetch else NONE
        self.part = self.read_history(self.lists[TokenList.ATTENTION].tolist(), coming)
        self.repeated(decided, end, (self.count, executed.tobytes(), self.part, self.late(self.kvwrites)))

    def repeated(self, begin: int, end: int, about: tuple[object, ...]) -> None:
        """Passes through the instructions ``begin`` to ``end`` - 1, or does what doing so from this state with the same ``about`` did."""
        if self.spans is not None or self.options.check or not self.repeat:
            self.pass_through(begin, end)
            return
        state = self.left or self.state()
        # Ports are counted from the position's, but what is read from port 0 alone waits for what is written there.
        first_port = -self.position % self.machine.ports if state.written else 0
        key = (state, first_port, begin, *about)
        known = self.stretches.get(key)
        if known is not None:
            self.now += known.cycles
            for name, amount in known.counters:
                self.counters[name] += amount
            self.entries += known.entries
            self.left = known.state
            return
        self.restore()
        now, entries, before = self.now, self.entries, dict(self.counters)
        self.pass_through(begin, end)
        counters = tuple((name, amount - before[name]) for name, amount in self.counters.items() if amount != before[name])
        self.stretches[key] = Stretch(self.now - now, counters, self.entries - entries, self.state())

    def pass_through(self, begin: int, end: int) -> None:
        for pc in range(begin, end):
            instruction, f = self.decoded[pc]
            self.issue(Unit[instruction.unit.upper()], f, instruction.name.lower(), pc)
        instruction, f = self.decoded[end]
        if instruction is END:
            self.now += DISPATCH
        self.wait_route(f)  # whatever was before, what follows starts from much the same state

    def run(self, on_chunk: OnChunk | None = None) -> None:
        prompt = len(self.options.prompt)
        decoded = self.decoded
        ends = [pc for pc, (instruction, _) in enumerate(decoded) if instruction is END]
        beats = -(-len(decoded) * 16 // self.machine.beat_bytes)
        # An instruction per cycle goes into its memory.
        self.now = max(short_read(self.machine, beats, 0)[-1], self.costs.read + len(decoded)) + 2
        self.counters["READ_BEATS"] += beats
        pc = 0
        while True:
            instruction, f = decoded[pc]
            name = instruction.name
            pc += 1
            if name == "SET":
                self.config[f["register"]] = f["value"]
                self.now += DISPATCH
            elif name == "CHUNK":
                left = prompt - self.position
                self.count = min(self.machine.tokens, left) if left > 0 else 1
                every = np.arange(self.count)
                last = every[-1:] if self.position + self.count >= prompt else every[:0]
                self.lists = {TokenList.ALL: every, TokenList.ATTENTION: every, TokenList.FFN: every, TokenList.LAST: last}
                self.now += DISPATCH + 1
            elif name == "LOOP":
                self.now += DISPATCH
                end = next(at for at in ends if at >= pc)
                decided = next((at + 1 for at in range(pc, end) if decoded[at][0] is ROUTE), pc)
                self.kvwrites = next((fields for i, fields in decoded[pc:end] if i is KVWRITE), self.kvwrites)
                for self.layer in range(f["count"]):
                    self.body(pc, decided, end)
                self.restore()
                self.layer = f["count"]
                pc = end + 1
            elif name == "NEXT":
                self.now = max(self.idle(), self.recorded) + DISPATCH
                last = len(self.lists[TokenList.LAST]) > 0
                self.position += self.count
                if on_chunk is not None:
                    on_chunk(self.position)
                if last:
                    if self.generated >= self.new_tokens:
                        continue
                    self.generated += 1
                    self.now += 8  # the token is written
                    self.writes.add([(0, self.now - ANSWER, 1)])
                    self.counters["WRITE_BEATS"] += 1
                    self.at_token.append(self.counters | {"CYCLES": self.now})
                if not last or self.generated < self.new_tokens:
                    pc = f["target"]
            elif name == "HALT":
                self.counters["CYCLES"] = self.idle() + 1
                return
            else:
                self.issue(Unit[instruction.unit.upper()], f, name.lower(), pc - 1)


def run(program: Program, run: Run, options: Options | None = None, watch: Watch = QUIET) -> Timed:
    """Counts cycles of ``run`` under a routing and a number of tokens that another engine gave, or the functional engine gives.

    Raises:
        ProgramError, MachineHalt: the functional engine's.
    """
    options = options or Options()
    routed = options.routed
    if routed is None:
        from sim.functional import engine as functional

        watch.say("functional engine")
        routed = functional.run(program, run)
    spans = options.spans
    if spans is None and options.timeline is not None:
        spans = []
    engine = TimingEngine(program, run, routed, spans, options.repeat)
    watch.say("timing engine")
    begin = time.perf_counter()
    engine.run(watch.positions)
    seconds = time.perf_counter() - begin
    if options.timeline is not None and spans is not None:
        write_perfetto(options.timeline, spans, program.machine.clock_mhz)
    return Timed(
        tokens=list(routed.tokens),
        routing=routed.routing,
        counters=engine.counters,
        kv_entries=engine.entries,
        saturated=routed.saturated,
        trace=engine.trace,
        at_token=engine.at_token,
        seconds=seconds,
    )
