"""Blocks of four queries, as the query memory's banks hold them, of the listed slots only."""

from __future__ import annotations

import numpy as np
from amaranth.sim import SimulatorContext

from hw.kv.blocks import QueryBlocks
from hw.widths import ELEMENT_BITS
from skipopu.layout import KvEntry
from skipopu.machine.config import QUERY_LANES, Machine
from tests.hw.kv.support import set_heads, simulate

MACHINE = Machine.load("trio")


def blocks_of(mask: int, group: int) -> list[list[tuple[int, int, bool]]]:
    """Per block with a listed slot its lanes: (slot, member, whether it is listed)."""
    queries = [(j // group, j % group, bool(mask >> j // group & 1)) for j in range(MACHINE.tokens * group)]
    blocks = [queries[j : j + QUERY_LANES] for j in range(0, len(queries), QUERY_LANES)]
    return [(number, block) for number, block in enumerate(blocks) if any(listed for _, _, listed in block)]


def test_against_a_list_of_all_queries() -> None:
    dut, rng = QueryBlocks(MACHINE), np.random.default_rng(0)

    async def bench(ctx: SimulatorContext) -> None:
        for _ in range(30):
            mask, group = int(rng.integers(1, 1 << MACHINE.tokens)), int(rng.integers(1, MACHINE.query_group + 1))
            entry = KvEntry(int(rng.integers(1, MACHINE.kv_heads + 1)), 8 * int(rng.integers(1, 5)), MACHINE)
            address, stride = (int(rng.integers(0, 1 << 12)) for _ in range(2))
            set_heads(ctx, dut.heads, entry, group)
            for port, value in ((dut.mask, mask), (dut.address, address), (dut.stride, stride), (dut.start, 1)):
                ctx.set(port, value)
            await ctx.tick()
            ctx.set(dut.start, 0)
            cycles = 1
            while not ctx.get(dut.done):
                await ctx.tick()
                cycles += 1
            assert cycles == MACHINE.tokens * group
            await ctx.tick()
            expected = blocks_of(mask, group)
            assert ctx.get(dut.listed.count) == len(expected)
            assert ctx.get(dut.last_slot) == mask.bit_length() - 1
            assert ctx.get(dut.results.kv_offset) == group * entry.head_dim
            for k, (number, block) in enumerate(expected):
                seen = ctx.get(dut.listed.blocks[k])
                assert seen.base == number * entry.kv_heads * entry.head_beats
                assert seen.lanes == sum(listed << q for q, (_, _, listed) in enumerate(block))
                for q, (slot, member, listed) in enumerate(block):
                    if listed:
                        assert seen.slots[q] == slot
                        result = (address + slot * stride + member * entry.head_dim) % (1 << ELEMENT_BITS)
                        assert ctx.get(dut.results.addresses[k])[q] == result
            await ctx.tick()
            assert ctx.get(dut.entry_words) == entry.kv_heads * len(expected)

    simulate(dut, bench)
