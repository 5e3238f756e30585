"""Sums of squares and 1/rms against the numerics: groups of slots in turns, extreme exponents."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.vector.rms import InverseRms
from skipopu.machine.config import Machine
from skipopu.machine.pipeline import squared
from skipopu.numerics import align, fp32
from tests.hw.vector.support import pause, unpacked

LANES, GROUP, GROUPS = 4, 16, 4


@pytest.mark.parametrize("slots", [3, 8])  # of more than FEW tokens, a slot's total is chosen earlier
@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("listed", [1, 3])  # that have words, one after the other
def test_inverse_rms(seed: int | None, slots: int, listed: int) -> None:
    machine = dataclasses.replace(Machine.load("tiny"), tokens=slots, vector_lanes=LANES)
    rng = np.random.default_rng(7)
    x = rng.standard_normal((listed, GROUPS * GROUP)) * 10.0 ** rng.integers(-12, 12, (listed, 1))
    mantissas, exponents = align.align(x.astype(np.float32), GROUP)
    inverse_size, epsilon = np.float32(1 / x.shape[1]), np.float32(1e-6)
    expected = fp32.bits(align.inverse_rms(mantissas, exponents, inverse_size, epsilon))
    dut = InverseRms(machine)
    finished = False

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal finished
        stalls = None if seed is None else random.Random(seed)
        ctx.set(dut.inverse_size, int(fp32.bits(inverse_size)))
        ctx.set(dut.epsilon, int(fp32.bits(epsilon)))
        for round_ in range(2):  # the second one after words that do not count, and a clear
            ctx.set(dut.enable, round_)
            for group in range(GROUPS):
                for slot in range(listed):
                    for first in range(0, GROUP, LANES):
                        if await pause(ctx, stalls):
                            assert not ctx.get(dut.kept)
                        for k in range(LANES):
                            ctx.set(dut.mantissas[k], int(mantissas[slot, group, first + k]))
                        ctx.set(dut.exponent, int(exponents[slot, group]))
                        ctx.set(dut.slot, slot)
                        ctx.set(dut.first, first == 0)
                        ctx.set(dut.last, first == GROUP - LANES)
                        ctx.set(dut.valid, 1)
                        await ctx.tick()
                        ctx.set(dut.valid, 0)
                        ctx.set(dut.mantissas[0], 12345)
        # The total of the last word's slot is written ``squared`` cycles after that word.
        await ctx.tick().repeat(squared(machine))
        for cycle in range(InverseRms.LATENCY + listed):
            slot = listed - 1 - cycle
            ctx.set(dut.request, slot >= 0)
            ctx.set(dut.request_slot, max(slot, 0))
            kept = listed - 1 - (cycle - InverseRms.LATENCY)
            assert ctx.get(dut.kept) == (cycle >= InverseRms.LATENCY)
            if cycle >= InverseRms.LATENCY:
                assert (ctx.get(dut.kept_slot), ctx.get(dut.kept_value)) == (kept, int(expected[kept]))
            await ctx.tick()
        assert unpacked(ctx.get(dut.inverse_rms), listed) == expected.tolist()
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        ctx.set(dut.request, 1)
        await ctx.tick().until(dut.kept)
        empty = fp32.bits(align.inverse_rms(np.zeros((1, GROUP)), np.ones(1, np.int64), inverse_size, epsilon))
        assert ctx.get(dut.kept_value) == int(empty)
        finished = True

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert finished
