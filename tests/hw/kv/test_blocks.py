"""Blocks of four queries, as the query memory's banks hold them, of the listed slots only."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.blocks import QueryBlocks
from hw.widths import ELEMENT_BITS
from skipopu.isa.spec import ATTEND, BUFFER_UNIT
from skipopu.layout import KvEntry
from skipopu.machine.accepted import LARGEST_BUFFER
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.machine.limits import largest_entry
from tests.hw.kv.support import LARGEST, set_heads, simulate

MACHINE = Machine.load("trio")
BUFFER_UNITS = 1 << ATTEND.by_name["stride"].width


def blocks_of(machine: Machine, mask: int, group: int) -> list[tuple[int, list[tuple[int, int, bool]]]]:
    """Per block with a listed slot its lanes: (slot, member, whether it is listed)."""
    queries = [(j // group, j % group, bool(mask >> j // group & 1)) for j in range(machine.tokens * group)]
    blocks = [queries[j : j + QUERY_LANES] for j in range(0, len(queries), QUERY_LANES)]
    return [(number, block) for number, block in enumerate(blocks) if any(listed for _, _, listed in block)]


@pytest.mark.parametrize("machine", [MACHINE, LARGEST], ids=["trio", "largest"])
def test_against_a_list_of_all_queries(machine: Machine) -> None:
    dut, rng = QueryBlocks(machine), np.random.default_rng(0)

    async def bench(ctx: SimulatorContext) -> None:
        for number in range(30):
            mask, group = int(rng.integers(1, 1 << machine.tokens)), int(rng.integers(1, machine.query_group + 1))
            entry = KvEntry(int(rng.integers(1, machine.kv_heads + 1)), 8 * int(rng.integers(1, 5)), machine)
            address, stride = (int(rng.integers(0, 1 << 12)) for _ in range(2))
            if machine is LARGEST and number == 0:
                mask, group, entry = (1 << machine.tokens) - 1, machine.query_group, largest_entry(machine)
                address, stride = LARGEST_BUFFER - BUFFER_UNIT, BUFFER_UNIT * (BUFFER_UNITS - 1)
            set_heads(ctx, dut.heads, entry, group)
            await ctx.tick()
            for port, value in ((dut.mask, mask), (dut.address, address), (dut.stride, stride), (dut.start, 1)):
                ctx.set(port, value)
            await ctx.tick()
            ctx.set(dut.start, 0)
            cycles = 1
            while not ctx.get(dut.done):
                await ctx.tick()
                cycles += 1
                assert cycles <= machine.tokens * group
            assert cycles == machine.tokens * group
            await ctx.tick()
            expected = blocks_of(machine, mask, group)
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
