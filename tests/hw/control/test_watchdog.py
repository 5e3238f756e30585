"""A run in which nothing moves is noticed, and no other."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import SimulatorContext

from hw.control.watchdog import Watchdog
from tests.hw.bench import exercise

CYCLES, PLACES = 16, 3


@pytest.mark.parametrize(("pause", "noticed"), [(CYCLES - 1, False), (CYCLES, True)])
def test_pauses(pause: int, noticed: bool) -> None:
    """Of two lengths; it is silent until something moves, and where there is no run it never is."""
    dut = Watchdog(CYCLES, PLACES)

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        for running in (1, 0, 1):
            ctx.set(dut.running, running)
            seen = []
            for cycle in range(4 * (pause + 1)):
                ctx.set(dut.moves, (cycle % (pause + 1) == 0) << cycle % PLACES)
                seen.append(ctx.get(dut.silent))
                await ctx.tick()
            assert seen[3 : 2 * pause].count(1) == (running and noticed)

    exercise(dut, {}, {}, drive=drive, seeds=())


def test_latency() -> None:
    dut = Watchdog(CYCLES, PLACES)

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.running, 1)
        ctx.set(dut.moves, 1)
        await ctx.tick()
        ctx.set(dut.moves, 0)
        await ctx.tick().repeat(CYCLES + 1)
        assert not ctx.get(dut.silent)
        await ctx.tick()
        assert ctx.get(dut.silent)
        await ctx.tick().repeat(3 * CYCLES)
        assert ctx.get(dut.silent)

    exercise(dut, {}, {}, drive=drive, seeds=())
