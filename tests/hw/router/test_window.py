"""The largest of a window by the definition of ranks, ties and windows of every length among them."""

from __future__ import annotations

import random

import numpy as np
from amaranth.sim import SimulatorContext

from hw.router.window import Window
from skipopu.numerics import fp32
from skipopu.policy import TOP, WINDOW, Decision, ranks
from tests.hw.bench import exercise


def test_the_largest_execute() -> None:
    dut, source = Window(), np.random.default_rng(1)

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        for _ in range(60):
            places = np.flatnonzero(source.random(WINDOW) < 0.8)
            numbers = np.float32(source.integers(-2, 3, len(places)) / 2)
            for place, number in zip(places, numbers, strict=True):
                ctx.set(dut.place, int(place))
                ctx.set(dut.difference, int(fp32.bits(number)))
                ctx.set(dut.valid, 1)
                await ctx.tick()
                ctx.set(dut.valid, 0)
                while stalls and stalls.random() < 0.5:
                    await ctx.tick()
            rank, among = ranks(numbers, numbers, places, 0 * places)
            for policy in TOP:
                ctx.set(dut.keep, policy.keep)
                executed = policy.rule(Decision(numbers, 0.0, places, rank=rank, among=among))
                assert ctx.get(dut.bits) == sum(1 << int(place) for place in places[executed])
                assert executed.sum() == -(-policy.keep * len(places) // WINDOW)
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)

    exercise(dut, {}, {}, drive=drive, seeds=range(1), patience=1000)
