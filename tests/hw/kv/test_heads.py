"""Beats of heads and headers are those of the memory's layout."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.heads import HeadSizes
from skipopu.isa.registers import Config
from skipopu.layout import KvEntry
from skipopu.machine.config import Machine
from skipopu.machine.limits import ranges
from tests.hw.kv.support import head_values, simulate

LATENCY = 3


@pytest.mark.parametrize("target", ["mono", "trio", "ulx3s"])
def test_beats_of_random_models(target: str) -> None:
    machine = Machine.load(target)
    dut, rng, allowed = HeadSizes(machine), np.random.default_rng(0), ranges(machine)
    extremes = [[allowed[c].least for c in (Config.KV_HEADS, Config.QUERY_GROUP, Config.HEAD_DIM)]]
    extremes.append([allowed[c].most for c in (Config.KV_HEADS, Config.QUERY_GROUP, Config.HEAD_DIM)])

    async def bench(ctx: SimulatorContext) -> None:
        for number in range(40):
            kv_heads, group, dim = (
                extremes[number]
                if number < len(extremes)
                else (
                    int(rng.integers(a.least, a.most + 1)) // a.step * a.step
                    for a in (allowed[Config.KV_HEADS], allowed[Config.QUERY_GROUP], allowed[Config.HEAD_DIM])
                )
            )
            for port, value in ((dut.kv_heads, kv_heads), (dut.query_group, group), (dut.head_dim, dim)):
                ctx.set(port, value)
            await ctx.tick().repeat(LATENCY)
            for port, value in head_values(dut.heads, KvEntry(kv_heads, dim, machine), group):
                assert ctx.get(port) == value, (port, kv_heads, dim)

    simulate(dut, bench)
