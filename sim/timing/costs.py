"""Cycles of every instruction, in one place. Each formula follows the states of the unit's controller in ``hw``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sim.timing.reader import NOTHING, READABLE, Reader
from sim.timing.refresh import wait_of_ports
from sim.timing.rounds import rounds_of
from sim.timing.writes import Burst
from skipopu.isa.spec import ADDRESS_UNIT
from skipopu.layout import KvEntry
from skipopu.machine import pipeline
from skipopu.machine.config import BACKGROUND_BURSTS, BEATS_HELD, ENTRIES_AHEAD, Machine
from skipopu.numerics.formats import SCALE_WORD, Format
from skipopu.records import RING_RECORD, ROUTER_RECORD_READ

# Fixed pipeline lengths of the RTL (cycles).
HANDOVER = 3  # completion of one instruction to the start of the one waiting for its token
DISPATCH = 3  # per instruction: read, decode, issue
READ_OVERHEAD = 5  # a read's cycles besides the memory's latency: run, burst, address and data registers, FIFO
WRITE_OVERHEAD = 3  # a write burst's cycles besides its beats: run, address, response
SETTLE = pipeline.SIGNATURE + 1  # last write to the signature's total
ADDITION = 2 + pipeline.ADD  # one addition of the routing unit
DIVIDE = pipeline.DIVIDE - 2  # step of the divider to its result, less what aligning the last group overlaps
SERIAL_REQUEST = 14  # a read's cycles that the first probabilities overlap
SERIAL_DIVIDE = pipeline.DIVIDE + 1  # wait between queries that do not follow one another
WEIGHED = pipeline.WEIGHED + 5  # last softmax step of a head to the first step of values that may use it


@dataclass(frozen=True)
class Costs:
    """Cycle counts on one machine; every method returns cycles from start to done of its instruction."""

    machine: Machine

    @property
    def read(self) -> int:
        """Round trip of one short read."""
        memory = self.machine.memory
        return round(memory.latency + READ_OVERHEAD + memory.refresh_wait)

    def read_all(self, ports: int) -> int:
        """Round trip of one short read of the first ``ports``, which waits for the last of them."""
        return self.read + round(wait_of_ports(self.machine, ports) - self.machine.memory.refresh_wait)

    @property
    def epilogue(self) -> int:
        """Accumulator read to everything that is kept of its result."""
        return pipeline.EPILOGUE + pipeline.results_known(self.machine) - 1

    @property
    def in_flight(self) -> int:
        """Weight beats per port asked for that did not come yet, at most."""
        m = self.machine
        return (m.weights_in_flight or m.weight_fifo) // m.burst * m.burst

    def behind_ahead(self, entry: KvEntry) -> int:
        """Cycles that a short read waits for beats that are being fetched ahead."""
        m = self.machine
        run = entry.beats // 2
        under_way = min((BACKGROUND_BURSTS - 0.5) * min(m.burst, run), ENTRIES_AHEAD * run)
        return max(0, int(under_way / m.memory.rate) - m.memory.latency - 1)

    def embed(self, slots: int, elements: int, row: int, half_head: int) -> int:
        return 2 + 3 * self.machine.tokens + slots * embed_slot(self.machine, elements, row, half_head)

    def embed_busy(self, slots: int, elements: int, half_head: int) -> int:
        return slots * (-(-elements // self.machine.vector_lanes) + 2 * half_head)

    def scan(self, slots: int, elements: int) -> int:
        """ALIGN up to its last word."""
        m = self.machine
        return 3 + 2 * m.tokens + self.scan_busy(slots, elements)

    def scan_busy(self, slots: int, elements: int) -> int:
        return slots * -(-elements // self.machine.vector_lanes)

    def group_cycles(self, padded: int, residual: bool) -> int:
        """Words of one group that is aligned to ``padded`` elements; a slot's square sums follow one another no sooner than they are added."""
        words = -(-padded // self.machine.vector_lanes)
        return max(words, pipeline.ADD_POSITIVE + 1) if residual and self.machine.short_groups else words

    def align_busy(self, slots: int, elements: int, group: int, padded: int, residual: bool) -> int:
        return slots * -(-elements // group) * self.group_cycles(padded, residual)

    def align_waits(self, elements: int, group: int, queued: int) -> int:
        """Cycles that a slot of the residual, written a word per cycle, waits for the aligner, behind which ``queued`` groups may wait."""
        if not self.machine.short_groups:
            return 0
        words, groups = -(-elements // self.machine.vector_lanes), -(-elements // group)
        return max(0, (groups - queued) * self.group_cycles(group, True) - words)

    def align_tail(self, slots: int, padded: int, spacing: int, complete: bool, residual: bool) -> int:
        """Last write to done, when every slot's last group is ``complete`` ``spacing`` cycles behind the one before it."""
        m = self.machine
        service = self.group_cycles(padded, residual)
        if complete:
            backlog = pipeline.TRACKED - 1 + service + (slots - 1) * max(0, service - spacing)
        else:  # the last groups are closed one after another once everything is written
            backlog = pipeline.TRACKED + 4 + min(2, slots - 1) + service + (slots - 1) * (service - 1)
        norms = m.tokens + pipeline.SLOT_NORM if residual else 0
        return max(m.tokens + pipeline.TRACKED, backlog) + pipeline.aligned(m, residual) - 1 + norms + SETTLE

    def route(self, slots: int, traced: bool, ranked: bool) -> int:
        """Once the record was read; ``slots`` are all of the chunk."""
        return slots * (10 + 4 * ADDITION + 1 + (self.read + 1 if traced else 0) + ranked) + SETTLE + 1

    def kvwrite_one(self, entry: KvEntry) -> tuple[int, int]:
        """Cycles of one entry up to its first beat, and from there on."""
        m = self.machine
        head = entry.head_beats * m.kv_lanes // m.vector_lanes
        bursts = -(-entry.beats // m.longest_write)
        return (
            2 * entry.kv_heads * head + pipeline.KV_EXPONENT + entry.header_beats + 2 + pipeline.apart(m),
            entry.beats + bursts * WRITE_OVERHEAD + 2 + pipeline.apart(m),
        )

    def kvwrite(self, written: int, copied: int, entry: KvEntry) -> int:
        return 1 + written * sum(self.kvwrite_one(entry)) + 3 * copied + SETTLE + 1

    def kvwrite_bursts(self, start: int, ports: Sequence[int], entry: KvEntry) -> Iterator[Burst]:
        """Bursts of a KVWRITE that starts at ``start`` and writes an entry to each of ``ports``."""
        before, writing = self.kvwrite_one(entry)
        for number, port in enumerate(ports):
            now = start + number * (before + writing) + before
            for beat in range(0, entry.beats, self.machine.longest_write):
                size = min(self.machine.longest_write, entry.beats - beat)
                now += WRITE_OVERHEAD + size
                yield port, now, size

    def kvwrite_tail(self, entry: KvEntry) -> int:
        """Cycles from the first beat of the last entry to done."""
        bursts = -(-entry.beats // self.machine.longest_write)
        return entry.beats + bursts * (WRITE_OVERHEAD + self.machine.memory.turnaround) + SETTLE + 3

    def kvwrite_bus(self, entry: KvEntry) -> int:
        """Cycles of a port's bus that one entry's writing takes."""
        return entry.beats + 2 * -(-entry.beats // self.machine.longest_write) * self.machine.memory.turnaround

    def kvwrite_busy(self, written: int, entry: KvEntry) -> int:
        m = self.machine
        return written * (2 * entry.kv_heads * (entry.head_beats * m.kv_lanes // m.vector_lanes) + entry.beats)

    def store_one(self, elements: int) -> tuple[int, int]:
        """(beats, cycles) of one row."""
        beats = -(-4 * elements // self.machine.beat_bytes)
        return beats, 1 + 2 * elements + beats + -(-beats // self.machine.longest_write) * WRITE_OVERHEAD

    def store(self, slots: int, elements: int) -> int:
        return 1 + 3 * self.machine.tokens + slots * self.store_one(elements)[1] + SETTLE

    def store_bursts(self, start: int, slots: int, elements: int) -> Iterator[Burst]:
        """Bursts of a STORE that starts at ``start``, evenly over its rows' time."""
        beats, cycles = self.store_one(elements)
        most = self.machine.longest_write
        for slot in range(slots):
            for done in range(most, beats + most, most):
                size = min(most, beats - done + most)
                yield 0, start + slot * cycles + cycles * min(done, beats) // beats, size

    def store_busy(self, slots: int, elements: int) -> int:
        return slots * (elements + -(-4 * elements // self.machine.beat_bytes))

    def matmul_start(self) -> int:
        """Start to the first step: token lists, accumulator addresses."""
        return self.machine.tokens + 3 + pipeline.told(self.machine)

    def matmul_beats(self, rows: int, groups: int, group: int, form: Format) -> int:
        """Weight beats of a port whose blocks have ``rows`` rows."""
        count = rows * groups
        words = -(-count // form.scales_per_word)
        return words * SCALE_WORD // self.machine.beat_bytes + count * group * form.bits // 4 // self.machine.weight_lanes

    def pieces(self, group: int) -> int:
        """Groups side by side in a beat."""
        return max(1, self.machine.weight_lanes // group)

    def matmul_flight(self) -> int:
        """Last step of a round until its accumulators can be drained."""
        return pipeline.accumulated(self.machine) + 1

    def drain(self, slots: int, ports: int) -> int:
        """Cycles to drain one round of ``ports`` blocks."""
        return pipeline.drain(self.machine, slots, ports)

    def record_beats(self) -> int:
        """Beats of one record of the trace ring."""
        return max(1, RING_RECORD.size // self.machine.beat_bytes)

    def router_beats(self) -> int:
        """Beats of a router record, as far as it is read."""
        return max(1, ROUTER_RECORD_READ // self.machine.beat_bytes)

    @property
    def attention_drain(self) -> int:
        """Last step of a phase to the phase's end: the longest pipeline, scores with their tree over ports."""
        m = self.machine
        return pipeline.told(m) + pipeline.settled(m) + pipeline.tree(m.ports) + 2

    def attend(
        self,
        listed: Sequence[int],
        rounds: int,
        ports: int,
        reads: tuple[int, int],
        hits: int,
        entry: KvEntry,
        queries: int,
        head_dim: int,
        serial: bool,
        capped: bool,
    ) -> Attention:
        """``listed`` slots, ``rounds`` of one entry in each of ``ports``, ``queries`` query heads per KV head.

        ``reads`` is the largest number of beats that a port reads of keys (an entry written in the meantime among them) and of values,
        ``hits`` the smallest number of entries that it need not: with them a port begins while its first miss is on its way.
        """
        m = self.machine
        mine = queries * len(listed)  # queries of a KV head
        gap = pipeline.between_rounds(m)
        made = entry.kv_heads * mine + gap  # probabilities of an entry, and the cycles until the next one's
        parts = rounds_of(m, ports, listed, queries, entry, serial)
        of_round, drain = parts.of_round, self.attention_drain + parts.taken
        key_run, value_run = entry.key_beats, entry.beats - entry.key_beats
        missed = reads[0] / key_run
        read = self.read_all(ports) + 1 + pipeline.apart(m)  # its address is worked out behind its place
        read += m.stationary * (1 + pipeline.answered(m))  # it is counted when all ports say so
        covered = min(read + 1, hits * parts.key_round)
        keys = max(rounds * parts.key_round - covered, int(parts.key_pace.until(missed))) + read + 1
        fill = (min(max(1, parts.together), rounds) - 1) * made + mine + WEIGHED
        late = pipeline.SOFT_CAP * capped
        # They are asked for right behind the keys.
        fetched = parts.value_pace.until(missed + reads[1] / value_run) - parts.value_pace.until(missed)
        weighing = 0  # cycles beyond the steps in which values wait for the rounds' probabilities
        if serial:
            fill += 2 + late
            values = int(max(rounds * (of_round + fill), fetched)) + read - SERIAL_REQUEST
            divisions = entry.kv_heads * mine * (head_dim // m.vector_lanes + SERIAL_DIVIDE) - SERIAL_DIVIDE
        else:
            # Two rounds' probabilities are under way at most; what a cap adds delays the first, and every other one behind the second.
            ahead = max((fill + of_round + 2) / 2, made)
            gap = 1 if m.stationary else gap
            period = max(of_round + gap, ahead)
            capping = (rounds - 1) // 2 * max(0, fill + late + of_round + 2 - 2 * period)
            fill += late
            # Values come while the keys' pipeline drains and the first probabilities are made.
            places = m.kv_fifo + BEATS_HELD * m.stationary
            early = min(self.attention_drain + fill, places / value_run * parts.value_pace.period)
            unhindered = int(rounds * period + capping)
            if m.stationary:
                unhindered = parts.values(rounds, made, mine + WEIGHED + late) - fill
            values = fill + max(unhindered, int(fetched - early))
            weighing = max(0, int(rounds * (ahead - of_round - gap))) + int(capping)
            divisions = entry.kv_heads * mine * (head_dim // m.vector_lanes)
        busy = rounds * (parts.key_steps + parts.value_steps)
        cycles = 3 + m.tokens * queries + keys + values + 2 * drain + divisions + DIVIDE
        filling = fill * rounds if serial else fill + weighing
        memory = keys - rounds * parts.key_steps + max(0, values - filling - rounds * parts.value_steps)
        own_rounds = -(-(listed[-1] + 1) // m.ports)
        own = max(own_rounds * parts.key_round, int(parts.key_pace.until(own_rounds)))
        return Attention(cycles, busy, memory, int(sum(reads) / m.memory.rate), 3 + m.tokens * queries + keys, own, read)


@dataclass(frozen=True)
class Attention:
    """Cycles of one ATTEND up to its last result: all, those with work, those that wait for beats; of the fullest port's bus; to its
    last key; of the keys of its own tokens, once they are written; of a read's round trip."""

    cycles: int
    busy: int
    memory: int
    bus: int
    keys: int
    own: int
    read: int


@lru_cache(maxsize=1024)
def embed_slot(machine: Machine, elements: int, row: int, half_head: int) -> int:
    """Cycles of one token: its id, its row's parts from all ports at once, one after another into the buffer, its rotary row."""
    m = machine
    beats, ports = row * ADDRESS_UNIT // m.beat_bytes, min(m.ports, -(-elements // (row * ADDRESS_UNIT // 2)))
    first = m.memory.latency + READ_OVERHEAD + 2
    words = m.port_bits // 32
    rotary = -(-2 * half_head // words)
    row_trips, rotary_trips = (math.ceil(read / m.burst / 2) for read in (beats, rotary))
    waits = (1 + rotary_trips) * m.memory.refresh_wait + row_trips * wait_of_ports(m, ports)
    apart = pipeline.apart(m)  # several are asked every other cycle, and each of their beats takes two more
    now = first + ports * (1 + apart)
    for port in range(ports):
        now = used(m, [m.kv_lanes // m.vector_lanes + 2 * apart] * beats, first + port * (1 + apart), now)
    now += 1  # the last word's register
    now = used(m, [min(words, 2 * half_head - beat * words) for beat in range(rotary)], now, now)
    return round(now + waits)


def short_read(machine: Machine, beats: int, at: int) -> list[int]:
    """When the beats of a read can be taken that the loader is asked for at ``at``; it has two bursts under way, or waiting to be taken."""
    takes: list[int] = []
    used(machine, [0] * beats, at, at, takes)
    return takes


def used(machine: Machine, cycles: Sequence[int], at: int, now: int, takes: list[int] | None = None) -> int:
    """When the last beat of such a read is used that are used from ``now`` on, for ``cycles`` each; ``takes`` receives when each is taken."""
    depth, burst = 2 * machine.burst, machine.burst
    reader = Reader(machine, machine.memory.rate, NOTHING, None, depth, depth)
    takes = [] if takes is None else takes
    for first in range(0, len(cycles), burst):
        part = cycles[first : first + burst]
        for push, busy in zip(reader.bring(len(part), at + 1, takes), part, strict=True):
            now = max(now, push + READABLE) + busy
            takes.append(now - min(1, busy))  # with its last word
    return now
