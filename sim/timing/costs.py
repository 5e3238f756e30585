"""Cycles of every instruction, in one place. Each formula follows the states of the unit's controller in ``hw``."""

from __future__ import annotations

from dataclasses import dataclass

from skipopu.isa.spec import ADDRESS_UNIT, BLOCK_ROWS
from skipopu.layout import SCALES_PER_WORD, KvEntry
from skipopu.machine.config import Machine

# Fixed pipeline lengths of the RTL (cycles).
HANDOVER = 3  # completion of one instruction to the start of the one waiting for its token
DISPATCH = 3  # per instruction: read, decode, issue
READ_OVERHEAD = 5  # a read's cycles besides the memory's latency: run, burst, address and data registers, FIFO
CREDIT_LOOP = 8  # a FIFO place's return to its next beat, besides the memory's latency
WRITE_OVERHEAD = 3  # a write burst's cycles besides its beats: run, address, response
SETTLE = 4  # last write to the signature's total
SCALAR = 10  # one operation of the scalar unit
EPILOGUE = 20  # accumulator read to done
ACCUMULATE_BASE = 10  # product to accumulator besides the adder tree
DIVIDE = 14
ATTENTION_DRAIN = 16  # last step of a phase to the phase's end
EMIT = 12


@dataclass(frozen=True)
class Costs:
    """Cycle counts on one machine; every method returns cycles from start to done of its instruction."""

    machine: Machine

    @property
    def read(self) -> int:
        """Round trip of one short read."""
        return self.machine.memory.latency + READ_OVERHEAD

    def tree(self, lanes: int) -> int:
        """Stages of an adder tree of ``lanes`` inputs, three levels each."""
        return -(-(lanes.bit_length() - 1) // 3)

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

    def matmul_steps(self, slots: int, rounds: int, groups: int, group: int) -> tuple[int, int]:
        """(steps with a product, steps that load scales) of a whole product."""
        m = self.machine
        count = rounds * BLOCK_ROWS * groups
        words = -(-count // SCALES_PER_WORD)
        return count * (group // m.weight_lanes) * slots, words * (2 * SCALES_PER_WORD // m.beat_bytes)

    def matmul_beats(self, blocks: int, groups: int, group: int) -> int:
        """Weight beats of a port with ``blocks`` blocks."""
        count = blocks * BLOCK_ROWS * groups
        words = -(-count // SCALES_PER_WORD)
        return words * 2 * SCALES_PER_WORD // self.machine.beat_bytes + count * (group // self.machine.weight_lanes)

    def matmul_flight(self) -> int:
        """Last step of a round until its accumulators can be drained."""
        return ACCUMULATE_BASE + self.tree(self.machine.weight_lanes) + 1

    def drain(self, slots: int, ports: int, halves: int) -> int:
        """Cycles to drain one round of ``ports`` blocks, ``halves`` results per pair of rows."""
        return ports * slots * BLOCK_ROWS // 2 * halves

    def record_beats(self) -> int:
        """Beats of one record of the trace ring."""
        return max(1, 16 // self.machine.beat_bytes)

    def attention_phase(self, entries: int, run_beats: int, steps: int) -> int:
        """One pass of a port over its entries: ``steps`` cycles of work and ``run_beats`` beats per entry."""
        if not entries:
            return ATTENTION_DRAIN
        rate = self.machine.memory.beats_per_256_cycles / 256
        per_entry = max(steps, run_beats / rate, run_beats + 3)
        return int(self.read + 4 + entries * per_entry) + ATTENTION_DRAIN

    def attend(self, slots: int, entries: list[int], entry: KvEntry, queries: int, head_dim: int) -> int:
        """``entries`` per port, ``queries`` query heads per KV head."""
        heads = entry.kv_heads * queries
        work = entry.kv_heads * entry.head_beats * queries * slots
        keys = max(self.attention_phase(n, entry.key_beats, entry.header_beats + work) for n in entries)
        values = max(self.attention_phase(n, entry.beats - entry.key_beats, work) for n in entries)
        softmax = max(entries) * heads * slots + ATTENTION_DRAIN
        final = slots * (1 + heads * (DIVIDE + head_dim + EMIT))
        return 1 + self.machine.tokens + keys + heads * slots + softmax + values + final
