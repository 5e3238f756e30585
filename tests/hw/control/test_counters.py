"""Counters add what they are given while the machine runs."""

from __future__ import annotations

import dataclasses
import random

import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.control.counters import Counters
from skipopu.machine.accepted import MOST_PORTS
from skipopu.machine.config import Machine


@pytest.mark.parametrize("target", ["trio", "tiny-masks"])
def test_counts_are_sums_of_a_run(target: str) -> None:
    dut = Counters(Machine.load(target))
    draw = random.Random(0)

    async def bench(ctx: SimulatorContext) -> None:
        expected, before = [0] * len(dut.counts), (0, [0] * len(dut.counts))
        for _ in range(200):
            restart, running = draw.random() < 0.03, draw.random() < 0.8
            amounts = [draw.getrandbits(len(port)) for port in dut.amounts]
            ctx.set(dut.restart, restart)
            ctx.set(dut.running, running)
            for port, amount in zip(dut.amounts, amounts, strict=True):
                ctx.set(port, amount)
            await ctx.tick()
            shown = [
                (running, amount) if name == "CYCLES" else (before[0], old)
                for name, amount, old in zip(dut.names, amounts, before[1], strict=True)
            ]
            expected = [0 if restart else count + ran * amount for count, (ran, amount) in zip(expected, shown, strict=True)]
            before = running, amounts
            assert [ctx.get(count) for count in dut.counts] == expected

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_beats_of_all_ports_count() -> None:
    """As many ports as there can be bring a beat in the same cycle."""
    dut = Counters(dataclasses.replace(Machine.load("tiny"), ports=MOST_PORTS))

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.running, 1)
        for name, amount in zip(dut.names, dut.amounts, strict=True):
            ctx.set(amount, MOST_PORTS if "BEATS" in name else 1)
        await ctx.tick().repeat(5)
        for name, count in zip(dut.names, dut.counts, strict=True):
            assert len(count) == 64
            cycles = 5 if name == "CYCLES" else 4
            assert ctx.get(count) == (MOST_PORTS if "BEATS" in name else 1) * cycles, name

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
