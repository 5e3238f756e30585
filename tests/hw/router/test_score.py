"""(high + low) + bias, rounded as the definition rounds it, in the promised cycles."""

from __future__ import annotations

import random

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.router.score import Score
from skipopu.machine.config import Machine
from skipopu.numerics import fp32
from tests.hw.bench import exercise


@pytest.mark.parametrize("target", ["mono", "u280-slice4"])
def test_scores(target: str) -> None:
    machine, source = Machine.load(target), np.random.default_rng(1)
    dut, lanes = Score(machine), machine.vector_lanes
    buffer = (source.standard_normal(64) * 10.0 ** source.integers(-2, 3, 64)).astype(np.float32)
    biases = source.standard_normal(10).astype(np.float32)
    places = [2 * int(place) for place in source.integers(0, 32, len(biases))]

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        for place, bias in zip(places, biases, strict=True):
            while stalls and stalls.random() < 0.5:
                await ctx.tick()
            ctx.set(dut.address, place)
            ctx.set(dut.bias, int(fp32.bits(bias)))
            ctx.set(dut.start, 1)
            expected = int(fp32.bits(fp32.add(fp32.add(buffer[place], buffer[place + 1]), bias)))
            for cycle in range(Score.LATENCY + 1):
                assert ctx.get(dut.done) == (cycle == Score.LATENCY)
                assert cycle < Score.LATENCY or ctx.get(dut.z) == expected
                *_, enable, address = await ctx.tick().sample(dut.read_enable, dut.read_address)
                ctx.set(dut.start, 0)
                first = address // lanes * lanes
                word = [int(fp32.bits(value)) for value in buffer[first : first + lanes]]
                # What was not asked for is not there.
                ctx.set(dut.read_data, sum(value << 32 * k for k, value in enumerate(word)) if enable else 0)

    exercise(dut, {}, {}, drive=drive, seeds=range(1))


LARGE = 3e38


@pytest.mark.parametrize(
    ("high", "low", "bias", "count"),
    [(LARGE, LARGE, 0, 1), (LARGE, 0, LARGE, 1), (LARGE, LARGE, LARGE, 2), (LARGE, 0, -LARGE, 0)],
)
def test_an_overflow_is_said(high: float, low: float, bias: float, count: int) -> None:
    dut = Score(Machine.load("mono"))
    seen = 0

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        nonlocal seen
        first, second, third = (int(fp32.bits(np.float32(value))) for value in (high, low, bias))
        ctx.set(dut.read_data, second << 32 | first)
        ctx.set(dut.bias, third)
        ctx.set(dut.start, 1)
        for _ in range(Score.LATENCY + 1):
            *_, saturated = await ctx.tick().sample(dut.saturated)
            ctx.set(dut.start, 0)
            seen += saturated

    exercise(dut, {}, {}, drive=drive, seeds=())
    assert seen == count
