"""Dependence tokens are counted per pair of units."""

from __future__ import annotations

import random

from amaranth.sim import Simulator, SimulatorContext

from hw.control.issue import UNITS
from hw.control.tokens import DependenceTokens


def test_counts_follow_what_is_given_and_taken() -> None:
    dut = DependenceTokens()
    draw = random.Random(0)
    most = (1 << DependenceTokens.BITS) - 1

    async def bench(ctx: SimulatorContext) -> None:
        counts = {(a, b): 0 for a in range(UNITS) for b in range(UNITS)}
        overflows = 0
        for _ in range(400):
            give = [draw.getrandbits(UNITS) for _ in range(UNITS)]
            take = [sum(1 << a for a in range(UNITS) if counts[a, b] and draw.random() < 0.4) for b in range(UNITS)]
            restart = draw.random() < 0.01
            ctx.set(dut.restart, restart)
            for a in range(UNITS):
                ctx.set(dut.give[a], give[a])
                ctx.set(dut.take[a], take[a])
            over = [
                sum(1 << b for b in range(UNITS) if counts[a, b] == most and give[a] >> b & ~take[b] >> a & 1)
                for a in range(UNITS)
            ]
            assert [ctx.get(mask) for mask in dut.overflow] == over
            overflows += sum(map(bool, over))
            await ctx.tick()
            for a, b in counts:
                counts[a, b] = 0 if restart or sum(over) else counts[a, b] + (give[a] >> b & 1) - (take[b] >> a & 1)
            if sum(over):  # the machine halts, and starts anew
                ctx.set(dut.restart, 1)
                await ctx.tick()
            available = [sum(1 << b for b in range(UNITS) if counts[b, a]) for a in range(UNITS)]
            assert [ctx.get(mask) for mask in dut.available] == available
        assert overflows

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_fifteen_tokens_wait() -> None:
    """The sixteenth is an overflow."""
    dut = DependenceTokens()

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.give[0], 0b010)
        for _ in range(15):
            assert not ctx.get(dut.overflow[0])
            await ctx.tick()
        assert ctx.get(dut.overflow[0]) == 0b010
        ctx.set(dut.give[0], 0)
        ctx.set(dut.take[1], 0b001)
        for _ in range(15):
            assert ctx.get(dut.available[1]) == 0b001
            await ctx.tick()
        assert not ctx.get(dut.available[1])

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
