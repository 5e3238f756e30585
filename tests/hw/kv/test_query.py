"""What was written as slots' heads is read as words of four queries."""

from __future__ import annotations

from collections import deque

import numpy as np
from amaranth.sim import SimulatorContext

from hw.kv.query import QueryMemory, QueryWrites, query_depth
from skipopu.layout import KvEntry
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.machine.limits import largest_entry
from skipopu.numerics.align import ALIGNED_BITS
from tests.hw.kv.support import LARGEST, joined, set_heads, simulate

MACHINE = Machine.load("tiny")
GROUP, ENTRY = 3, KvEntry(2, 20, MACHINE)  # three beats of 8 lanes per head
WORDS = ENTRY.kv_heads * ENTRY.head_beats


def test_slots_taking_turns() -> None:
    dut, rng = QueryMemory(MACHINE), np.random.default_rng(0)
    vector, lanes = MACHINE.vector_lanes, MACHINE.kv_lanes
    shape = (MACHINE.tokens, ENTRY.kv_heads * GROUP, ENTRY.head_beats * lanes)
    mantissas = rng.integers(0, 1 << ALIGNED_BITS, shape)
    exponents = rng.integers(0, 256, shape[:2])
    # A slot's heads in order; which slot's is next is chance.
    heads = [(int(s), 0) for s in rng.permutation(np.repeat(np.arange(shape[0]), shape[1]))]
    count = [0] * shape[0]
    for k, (slot, _) in enumerate(heads):
        heads[k] = slot, count[slot]
        count[slot] += 1

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, ENTRY, GROUP)
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        coming: deque[tuple[int, int, int] | None] = deque([None] * QueryWrites.WRITE)
        words = [(s, h, offset) for s, h in heads for offset in range(0, shape[2], vector)]
        while words or any(coming):
            now = words.pop(0) if words and rng.random() < 0.8 else None
            ctx.set(dut.writes.head_slot, now[0] if now else int(rng.integers(shape[0])))
            ctx.set(dut.writes.head_end, int(bool(now) and now[2] == shape[2] - vector))
            coming.append(now)
            word = coming.popleft()
            ctx.set(dut.writes.write_enable, int(bool(word)))
            if word:
                slot, head, offset = word
                part = mantissas[slot, head, offset : offset + vector]
                ctx.set(dut.writes.write_offset, offset)
                ctx.set(dut.writes.write_data, sum(int(v) << ALIGNED_BITS * k for k, v in enumerate(part)))
                ctx.set(dut.writes.write_exponent, int(exponents[slot, head]))
            assert not ctx.get(dut.range)
            await ctx.tick()
        ctx.set(dut.writes.write_enable, 0)
        for query in range(MACHINE.tokens * GROUP):
            slot, member, bank = query // GROUP, query % GROUP, query % QUERY_LANES
            for kv_head in range(ENTRY.kv_heads):
                for beat in range(ENTRY.head_beats):
                    base = query // QUERY_LANES * WORDS + kv_head * ENTRY.head_beats
                    ctx.set(dut.read.word, base + beat)
                    ctx.set(dut.read.head, base)
                    await ctx.tick()
                    head = kv_head * GROUP + member
                    bits = ALIGNED_BITS * lanes
                    word = ctx.get(dut.data) >> bits * bank & (1 << bits) - 1
                    values = [word >> ALIGNED_BITS * k & (1 << ALIGNED_BITS) - 1 for k in range(lanes)]
                    assert values == mantissas[slot, head, lanes * beat : lanes * (beat + 1)].tolist()
                    assert ctx.get(dut.exponents) >> 8 * bank & 255 == exponents[slot, head]

    simulate(dut, bench)


def test_beyond_a_bank() -> None:
    dut = QueryMemory(MACHINE)

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, ENTRY, GROUP)
        ctx.set(dut.writes.write_enable, 1)
        end = query_depth(MACHINE) * MACHINE.kv_lanes
        for offset, beyond in ((0, 0), (end - MACHINE.kv_lanes, 0), (end, 1), (2040, 1)):
            ctx.set(dut.writes.write_offset, offset)
            assert ctx.get(dut.range) == beyond, offset

    assert query_depth(MACHINE) * MACHINE.kv_lanes <= 2040
    simulate(dut, bench)


def test_the_last_word_of_the_largest_model() -> None:
    """Behind all heads of the last slot; what stands in its place if its number lacks a bit is another word."""
    machine, entry = LARGEST, largest_entry(LARGEST)
    dut, group, lanes = QueryMemory(machine), machine.query_group, machine.kv_lanes
    last, words = machine.tokens - 1, entry.kv_heads * entry.head_beats
    query = last * group + group - 1
    head = query // QUERY_LANES * words + words - entry.head_beats
    bits, bank = ALIGNED_BITS * lanes, query % QUERY_LANES

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, entry, group)
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        ctx.set(dut.writes.head_slot, last)
        ctx.set(dut.writes.head_end, 1)
        await ctx.tick().repeat(entry.kv_heads * group - 1)
        ctx.set(dut.writes.head_end, 0)
        await ctx.tick().repeat(QueryWrites.WRITE)
        ctx.set(dut.writes.write_enable, 1)
        ctx.set(dut.writes.write_exponent, 77)
        for offset in range(0, entry.head_dim, machine.vector_lanes):
            ctx.set(dut.writes.write_offset, offset)
            ctx.set(dut.writes.write_data, offset + 1)
            assert not ctx.get(dut.range)
            await ctx.tick()
        ctx.set(dut.writes.write_enable, 0)
        ctx.set(dut.read.head, head)
        for beat in range(entry.head_beats):
            ctx.set(dut.read.word, head + beat)
            await ctx.tick()
            word = ctx.get(dut.data) >> bits * bank & (1 << bits) - 1
            parts = range(lanes * beat, lanes * (beat + 1), machine.vector_lanes)
            assert word == joined([offset + 1 for offset in parts], ALIGNED_BITS * machine.vector_lanes)
            assert ctx.get(dut.exponents) == 77 << 8 * bank

    simulate(dut, bench)
