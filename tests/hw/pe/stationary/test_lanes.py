"""The multipliers' second user: attention's sums and products, between products of weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.pe.dot import PROBABILITY_BITS, WEIGHTED_BITS, PackedDot
from hw.pe.stationary.lanes import Lanes
from skipopu.machine import pipeline
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.numerics.align import ALIGNED_BITS
from tests.hw.bench import simulation
from tests.hw.pe.variants import number

MACHINE = dataclasses.replace(Machine.load("tiny"), stationary=True)
STEPS = 40


@pytest.mark.parametrize("values", [False, True])
def test_attention(values: bool) -> None:
    """Each quarter of the multipliers has a query; steps come with gaps, whatever was selected before."""
    rng, dut = np.random.default_rng(values), Lanes(MACHINE)
    limit, quarter = (1 << ALIGNED_BITS - 1) - 1, MACHINE.kv_lanes
    elements = rng.choice([rng.integers(-limit, limit + 1), limit, -limit], (STEPS, quarter))
    queries = rng.choice([rng.integers(-limit, limit + 1), limit, -limit], (STEPS, QUERY_LANES, quarter))
    probabilities = rng.integers(0, 1 << PROBABILITY_BITS, STEPS)
    fed = np.flatnonzero(rng.random(4 * STEPS) < 0.5)[:STEPS]
    after = pipeline.STEP_SUM if values else pipeline.STEP_SUM + 2 + dut.levels
    bits = PackedDot.dot_bits(MACHINE.weight_lanes)

    async def bench(ctx: SimulatorContext) -> None:
        for cycle in range(int(fed[-1]) + after + 1):
            (k,) = np.flatnonzero(fed == cycle) if cycle in fed else (None,)
            ctx.set(dut.values, k is not None and values)
            ctx.set(dut.keys, k is not None and not values)
            ctx.set(dut.beat, int(rng.integers(0, 1 << 62)))
            ctx.set(dut.select, int(rng.integers(0, dut.lanes)))
            if k is not None:
                ctx.set(dut.element, number(elements[k], ALIGNED_BITS))
                ctx.set(dut.operand, number(queries[k].reshape(-1), ALIGNED_BITS))
                ctx.set(dut.probability, int(probabilities[k]))
            if cycle - after in fed:
                (k,) = np.flatnonzero(fed == cycle - after)
                if values:
                    assert ctx.get(dut.products) == number(probabilities[k] * elements[k], WEIGHTED_BITS)
                else:
                    assert ctx.get(dut.dots) == number((queries[k] * elements[k]).sum(1), bits)
            await ctx.tick()

    simulator = simulation(dut)
    simulator.add_testbench(bench)
    simulator.run()
