"""The list of an instruction's tokens."""

from __future__ import annotations

from amaranth.sim import Simulator, SimulatorContext

from hw.pe.tokens import TokenSlots
from skipopu.machine.config import Machine

MACHINE = Machine.load("tiny")


def test_every_mask() -> None:
    """All masks, one after the other: slots in rising order, ready ``tokens`` + 1 cycles after the start."""
    dut = TokenSlots(MACHINE)

    async def bench(ctx: SimulatorContext) -> None:
        for mask in range(1 << MACHINE.tokens):
            ctx.set(dut.mask, mask)
            ctx.set(dut.start, 1)
            assert not ctx.get(dut.ready)
            await ctx.tick()
            ctx.set(dut.start, 0)
            ctx.set(dut.mask, ~mask)
            for _ in range(MACHINE.tokens):
                assert not ctx.get(dut.ready)
                await ctx.tick()
            assert ctx.get(dut.ready)
            slots = [slot for slot in range(MACHINE.tokens) if mask >> slot & 1]
            assert ctx.get(dut.count) == len(slots)
            for position, slot in enumerate(slots):
                ctx.set(dut.position, position)
                assert ctx.get(dut.slot) == slot

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
