"""Queues: idle says that nothing is inside, an instruction takes all its tokens at once."""

from __future__ import annotations

import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.control.queue import UnitQueue
from hw.control.record import RecordWriter
from hw.control.weights import WeightFetch
from skipopu.isa.spec import ALIGN
from skipopu.machine.config import Machine

MONO = Machine.load("mono")


@pytest.mark.parametrize("unit", [UnitQueue, WeightFetch, RecordWriter])
def test_not_idle_with_something_inside(unit: type) -> None:
    dut, seen = unit(MONO), []
    stream = dut.retired_0 if unit is RecordWriter else dut.issue

    async def bench(ctx: SimulatorContext) -> None:
        if unit is RecordWriter:
            ctx.set(dut.check, 1)
            ctx.set(dut.ring_records, 64)
        assert ctx.get(dut.idle)
        ctx.set(stream.valid, 1)
        for _ in range(4):
            seen.append(ctx.get(dut.idle))
            await ctx.tick()
            ctx.set(stream.valid, 0)

    simulate(dut, bench)
    assert seen[:3] == [0, 0, 0]


def test_an_instruction_takes_its_tokens_together() -> None:
    dut, taken = UnitQueue(MONO), []

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.issue.payload.word, ALIGN.encode({"pop": 0b111}))
        ctx.set(dut.issue.valid, 1)
        await ctx.tick()
        ctx.set(dut.issue.valid, 0)
        for tokens in (0, 0, 0b001, 0b011, 0b110, 0b101, 0b111, 0, 0):
            ctx.set(dut.tokens, tokens)
            taken.append(ctx.get(dut.take))
            await ctx.tick()
        assert ctx.get(dut.active)

    simulate(dut, bench)
    assert taken == [0, 0, 0, 0, 0, 0, 0b111, 0, 0]


def simulate(dut: object, bench: object) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
