"""Token t's port is t mod ports, whatever the chunks; every port counts its own places."""

from __future__ import annotations

import numpy as np
from amaranth.sim import SimulatorContext

from hw.kv.places import EntryPlaces
from skipopu.machine.config import Machine
from tests.hw.kv.support import simulate

MACHINE = Machine.load("trio")


def test_chunks_and_layers() -> None:
    dut, rng = EntryPlaces(MACHINE), np.random.default_rng(0)

    async def bench(ctx: SimulatorContext) -> None:
        for _ in range(3):
            ctx.set(dut.restart, 1)
            await ctx.tick()
            ctx.set(dut.restart, 0)
            places, position, found = [0] * MACHINE.ports, 0, 0
            for _ in range(12):
                count = int(rng.integers(1, MACHINE.tokens + 1))
                for _ in range(2):  # layers
                    ctx.set(dut.position, position)
                    ctx.set(dut.find, 1)
                    cycles = 0
                    while not ctx.get(dut.found):
                        await ctx.tick()
                        cycles += 1
                    assert cycles == position - found
                    found = position
                    await ctx.tick()
                    ctx.set(dut.find, 0)
                    for token in range(position, position + count):
                        port = token % MACHINE.ports
                        assert ctx.get(dut.port) == port
                        assert ctx.get(dut.place) == places[port]
                        use = int(rng.integers(2))
                        ctx.set(dut.use, use)
                        await ctx.tick()
                        places[port] += use
                        ctx.set(dut.use, 0)
                        ctx.set(dut.following, 1)
                        await ctx.tick()
                        ctx.set(dut.following, 0)
                    assert ctx.get(dut.used) == sum(places)
                position += count

    simulate(dut, bench)
