"""The KV map against a list: a write and every reader's read in each cycle."""

from __future__ import annotations

import random

from amaranth.sim import SimulatorContext

from hw.kv.map_memory import MapMemory
from skipopu.machine.config import Machine
from tests.hw.kv.support import simulate

MACHINE, READERS = Machine.load("tiny"), 3


def test_reads_and_writes() -> None:
    """A read sees what was written until the cycle before; an entry is all there is at its address."""
    dut, source = MapMemory(MACHINE, READERS), random.Random(4)
    places = [0] * MACHINE.map_entries
    # Few addresses, so that what is written is read; the first, the last and those between that differ in one bit.
    used = [0, MACHINE.map_entries - 1, *(1 << k for k in range(MACHINE.map_entries.bit_length() - 1))]
    again = 0

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal again
        fresh = None
        for _ in range(500):
            address, place, enable = source.choice(used), source.getrandbits(20), source.random() < 0.7
            ctx.set(dut.write.address, address)
            ctx.set(dut.write.data, {"place": place})
            ctx.set(dut.write.enable, enable)
            asked = [source.choice(used) for _ in dut.reads]
            for read, wanted in zip(dut.reads, asked, strict=True):
                ctx.set(read.address, wanted)
            expected = [places[wanted] for wanted in asked]
            await ctx.tick()
            assert [ctx.get(read.data).place for read in dut.reads] == expected
            again += fresh in asked
            fresh = address if enable else None
            if enable:
                places[address] = place

    simulate(dut, bench)
    assert again > 20
