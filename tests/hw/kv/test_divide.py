"""Words of results: sums over totals, where they go, a word per cycle."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.divide import Divide
from hw.kv.reduce import SUM_BITS
from skipopu.layout import KvEntry
from skipopu.machine.accepted import LARGEST_BUFFER
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.numerics import fp32
from skipopu.numerics.fp16 import ALIGNED_BIAS
from skipopu.numerics.signature import signature
from skipopu.numerics.tables import reciprocal
from tests.hw.kv.support import LARGEST, joined, set_heads, simulate
from tests.hw.kv.test_walk import random_blocks

MACHINE = Machine.load("trio")
ENTRY, OFFSET = KvEntry(2, 12, MACHINE), 256  # a head is one beat and a half


@pytest.mark.parametrize("mode", ["plain", "pauses", "serial"])
def test_against_numpy(mode: str) -> None:
    divided(ENTRY, 3, mode)


@pytest.mark.parametrize(("kv_heads", "head_dim"), [(64, 4), (2, 256)])
def test_the_most_heads_and_the_longest(kv_heads: int, head_dim: int) -> None:
    divided(KvEntry(kv_heads, head_dim, LARGEST), 1, "plain")


def divided(entry: KvEntry, count: int, mode: str) -> None:
    """Divides results of ``count`` blocks of queries, up to the end of the largest buffer."""
    machine, lanes = entry.machine, entry.machine.vector_lanes
    dut, rng = Divide(machine), np.random.default_rng(0)
    blocks = random_blocks(rng, count, machine)
    addresses = LARGEST_BUFFER - OFFSET * entry.kv_heads - lanes * rng.integers(0, 1000, (count, QUERY_LANES))
    words = entry.kv_heads * count
    totals = rng.integers(1 << 20, 1 << 40, (words, QUERY_LANES))
    exponents = rng.integers(1, 31, (words, QUERY_LANES))
    sums = rng.integers(-(1 << 45), 1 << 45, (words * entry.head_beats, QUERY_LANES, machine.kv_lanes))
    expected = []
    for head in range(entry.kv_heads):
        for k, block in enumerate(blocks):
            for q in range(QUERY_LANES):
                if not block["lanes"] >> q & 1:
                    continue
                for element in range(0, entry.head_dim, lanes):
                    number, beat = head * count + k, element // machine.kv_lanes
                    part = element % machine.kv_lanes
                    numerator = sums[(head * entry.head_beats + beat) * count + k, q, part : part + lanes]
                    quotient = reciprocal(fp32.from_integer(totals[number, q : q + 1], 0))
                    value = fp32.multiply(fp32.from_integer(numerator, exponents[number, q] - ALIGNED_BIAS), quotient)
                    expected.append((addresses[k, q] + head * OFFSET + element, block["slots"][q], fp32.bits(value)))
    seen: list[tuple[int, int, int]] = []
    cycles: list[int] = []
    ends: list[int] = []

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, entry)
        ctx.set(dut.listed.count, count)
        for k, block in enumerate(blocks):
            ctx.set(dut.listed.blocks[k], block)
            for q in range(QUERY_LANES):
                ctx.set(dut.results.addresses[k][q], int(addresses[k, q]))
        for port, value in ((dut.results.kv_offset, OFFSET), (dut.serial, mode == "serial"), (dut.aligning, 1)):
            ctx.set(port, value)
        for port in (dut.clear, dut.start):
            ctx.set(port, 1)
            await ctx.tick()
            ctx.set(port, 0)
        cycle = 1
        while not ctx.get(dut.done):
            ctx.set(dut.pause, mode == "pauses" and bool(rng.integers(2)))
            if ctx.get(dut.words.valid):
                word = ctx.get(dut.words.payload)
                seen.append((word.address, word.slot, word.data))
                assert word.enable == (1 << lanes) - 1
                cycles.append(cycle)
            if ctx.get(dut.finish):
                ends.append(cycle)
                ctx.set(dut.aligned, len(ends) == 5)
            number, lane = ctx.get(dut.reduced.read_number), ctx.get(dut.reduced.read_lane)
            address, sum_lane = ctx.get(dut.reduced.sum_address), ctx.get(dut.reduced.sum_lane)
            if not ctx.get(dut.done):
                await ctx.tick()
                ctx.set(dut.reduced.total, int(totals[number % words, lane]))
                ctx.set(dut.reduced.exponent, int(exponents[number % words, lane]))
                ctx.set(dut.reduced.sums, joined(sums[address % len(sums), sum_lane], SUM_BITS))
                cycle += 1
                assert cycle < 3000
        assert not ctx.get(dut.saturated)
        where = np.concatenate([address + np.arange(lanes) for address, _, _ in expected])
        assert ctx.get(dut.digest) == signature(where, np.concatenate([bits for _, _, bits in expected]))

    simulate(dut, bench)
    assert seen == [(address, slot, joined(bits, 32)) for address, slot, bits in expected]
    per_query = -(-entry.head_dim // lanes)
    if mode != "pauses":
        wait = Divide.LATENCY + 1 if mode == "serial" else 0
        queries = range(len(expected) // per_query)
        first = 1 + Divide.LATENCY
        assert cycles == [first + (per_query + wait) * query + word for query in queries for word in range(per_query)]
