"""Cycles of every instruction, in one place. Each formula follows the states of the unit's controller in ``hw``."""

from __future__ import annotations

from dataclasses import dataclass

from skipopu.isa.spec import ADDRESS_UNIT, BLOCK_ROWS
from skipopu.layout import SCALES_PER_WORD, KvEntry
from skipopu.machine.config import QUERY_LANES, Machine

# Fixed pipeline lengths of the RTL (cycles).
HANDOVER = 3  # completion of one instruction to the start of the one waiting for its token
DISPATCH = 3  # per instruction: read, decode, issue
READ_OVERHEAD = 5  # a read's cycles besides the memory's latency: run, burst, address and data registers, FIFO
CREDIT_LOOP = 8  # a FIFO place's return to its next beat, besides the memory's latency
WRITE_OVERHEAD = 3  # a write burst's cycles besides its beats: run, address, response
SETTLE = 4  # last write to the signature's total
SCALAR = 10  # one operation of the scalar unit
EPILOGUE = 20  # accumulator read to done
ACCUMULATE_BASE = 17  # step to accumulator besides the adder tree
DIVIDE = 13
ATTENTION_DRAIN = 11  # last step of a phase to the phase's end besides the adder trees
EMIT = 12


@dataclass(frozen=True)
class Costs:
    """Cycle counts on one machine; every method returns cycles from start to done of its instruction."""

    machine: Machine

    @property
    def read(self) -> int:
        """Round trip of one short read."""
        return self.machine.memory.latency + READ_OVERHEAD

    @property
    def weight_rate(self) -> float:
        """Beats per cycle of a weight stream: what the memory sustains, or what the FIFO's credits let be in flight."""
        m = self.machine
        return min(m.memory.beats_per_256_cycles / 256, m.weight_fifo / (m.memory.latency + CREDIT_LOOP))

    def embed(self, slots: int, elements: int, row: int, half_head: int) -> int:
        m = self.machine
        beats = row * ADDRESS_UNIT // m.beat_bytes
        ports = min(m.ports, -(-elements // (row * ADDRESS_UNIT // 2)))
        row_cycles = ports * (self.read + beats * m.kv_lanes // m.vector_lanes)
        one = self.read + 3 + row_cycles + self.read + 2 * half_head
        return 2 + 3 * m.tokens + slots * one + SETTLE

    def align(self, slots: int, elements: int, group: int, lanes: int, norm: bool) -> int:
        m = self.machine
        padded = -(-group // lanes) * lanes
        first, second = -(-group // m.vector_lanes), -(-padded // m.vector_lanes)
        per_group = 1 + first + 3 + second + 5 + (4 + SCALAR if norm else 1) + 1
        per_slot = 2 + -(-elements // group) * per_group + (1 + 3 * SCALAR if norm else 0)
        return 2 + m.tokens + slots * per_slot + SETTLE

    def route(self, slots: int, traced: bool) -> int:
        one = 8 + 4 * SCALAR + 1 + (self.read + 1 if traced else 0)
        return 2 + self.read + 2 * self.machine.tokens + slots * one + SETTLE

    def kvwrite(self, written: int, copied: int, entry: KvEntry) -> int:
        m = self.machine
        head = entry.head_beats * m.kv_lanes // m.vector_lanes + 4
        bursts = -(-entry.beats // m.burst)
        one = 1 + 2 * entry.kv_heads * head + entry.header_beats + 1 + entry.beats + bursts * WRITE_OVERHEAD + 2
        return 1 + written * one + 3 * copied + SETTLE + 1

    def store(self, slots: int, elements: int) -> int:
        m = self.machine
        beats = -(-4 * elements // m.beat_bytes)
        one = 1 + 2 * elements + beats + -(-beats // m.burst) * WRITE_OVERHEAD
        return 1 + 3 * m.tokens + slots * one + SETTLE

    def matmul_start(self) -> int:
        """Start to the first step: token lists, accumulator addresses."""
        return self.machine.tokens + 3

    def matmul_words(self, blocks: int, groups: int) -> tuple[int, int]:
        """(groups of rows, scale words) of a port with ``blocks`` blocks."""
        count = blocks * BLOCK_ROWS * groups
        return count, -(-count // SCALES_PER_WORD)

    def matmul_stream(self, slots: int, rounds: int, groups: int, group: int, bits: int) -> tuple[int, int]:
        """(steps, cycles of steps and takes) of a whole product whose weights are always there.

        A pair of beats is multiplied with ``slots`` tokens while the next one is taken; a scale word comes ahead of some.
        """
        m = self.machine
        count, words = self.matmul_words(rounds, groups)
        pairs = count * bits // 8 * (group // m.weight_lanes)
        scale = 2 * SCALES_PER_WORD // m.beat_bytes
        pair = max(slots, 2)
        return pairs * slots, pairs * pair + words * (max(pair, 2 + scale) - pair) + slots

    def matmul_beats(self, blocks: int, groups: int, group: int, bits: int) -> int:
        """Weight beats of a port with ``blocks`` blocks."""
        count, words = self.matmul_words(blocks, groups)
        return words * 2 * SCALES_PER_WORD // self.machine.beat_bytes + count * (group * bits // 4 // self.machine.weight_lanes)

    def matmul_flight(self) -> int:
        """Last step of a round until its accumulators can be drained."""
        return ACCUMULATE_BASE + (self.machine.weight_lanes - 1).bit_length()

    def drain(self, slots: int, ports: int, halves: int) -> int:
        """Cycles to drain one round of ``ports`` blocks, ``halves`` results per pair of rows."""
        return ports * slots * BLOCK_ROWS // 2 * halves

    def record_beats(self) -> int:
        """Beats of one record of the trace ring."""
        return max(1, 16 // self.machine.beat_bytes)

    def attention_phase(self, rounds: int, run_beats: int, steps: int) -> int:
        """One phase of ``rounds`` entries in every port: ``steps`` cycles of work and ``run_beats`` beats per entry."""
        rate = self.machine.memory.beats_per_256_cycles / 256
        per_round = max(steps + 1, run_beats / rate, run_beats + 3) if run_beats else steps + 1
        return int(rounds * per_round) + self.attention_drain + (self.read + 5 if run_beats else 0)

    @property
    def attention_drain(self) -> int:
        """Last step of a phase to the phase's end: the longest pipeline, scores with their tree over ports."""
        m = self.machine
        return ATTENTION_DRAIN + (m.kv_lanes - 1).bit_length() + (m.ports - 1).bit_length()

    def attend(self, listed: list[int], entries: list[int], entry: KvEntry, queries: int, head_dim: int) -> int:
        """``listed`` slots, ``entries`` per port, ``queries`` query heads per KV head."""
        blocks = len({(slot * queries + g) // QUERY_LANES for slot in listed for g in range(queries)})
        heads, beats, rounds = entry.kv_heads, entry.kv_heads * entry.head_beats, max(entries)
        mine = queries * len(listed)
        keys = self.attention_phase(rounds, entry.key_beats, entry.header_beats + beats * blocks)
        softmax = self.attention_phase(rounds, 0, heads * mine)
        values = self.attention_phase(rounds, entry.beats - entry.key_beats, beats * mine)
        final = heads * mine * (DIVIDE + head_dim + EMIT)
        return 3 + self.machine.tokens * queries + keys + softmax + values + final
