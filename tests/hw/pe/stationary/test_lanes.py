"""The multipliers' second user: attention's sums, between products of weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.shapes import HeadShapes
from hw.pe.dot import PROBABILITY_BITS
from hw.pe.stationary.lanes import ADDED_BITS, Lanes
from skipopu.machine import pipeline
from skipopu.machine.config import ENTRIES_AT_ONCE, QUERY_LANES, Machine
from skipopu.numerics.accumulate import WIDTH
from skipopu.numerics.align import ALIGNED_BITS
from tests.hw.bench import simulation
from tests.hw.kv.support import Schedule
from tests.hw.pe.variants import number

MACHINE = dataclasses.replace(Machine.load("tiny"), stationary=True)
LIMIT = (1 << ALIGNED_BITS - 1) - 1
SUMS = 30


@pytest.mark.parametrize("values", [False, True])
def test_attention(values: bool) -> None:
    """Each quarter of the multipliers has a query; sums of one step or more, with gaps in them, whatever was selected before."""
    rng, dut, plan, quarter = np.random.default_rng(values), Lanes(MACHINE), Schedule(), MACHINE.kv_lanes
    plan.set(0, dut.values, int(values))
    plan.set(0, dut.keys, int(not values))
    plan.set(0, dut.adds, -1)
    at_sum = Lanes.selected(MACHINE)
    most = ENTRIES_AT_ONCE if values else HeadShapes(MACHINE).most_head_beats
    cycle, ready = 1, 0
    for turn in range(SUMS):
        steps = most if turn == 0 else int(rng.integers(1, ENTRIES_AT_ONCE + 1))
        choose = [rng.integers(-LIMIT, LIMIT + 1), LIMIT, -LIMIT]
        elements = rng.choice(choose, (steps, quarter))
        queries = rng.choice(choose, (steps, QUERY_LANES, quarter))
        probabilities = rng.choice([0, rng.integers(1 << PROBABILITY_BITS), (1 << PROBABILITY_BITS) - 1], (steps, QUERY_LANES))
        if turn == 0:  # as large as sums are
            elements[:], queries[:], probabilities[:] = -LIMIT, LIMIT, (1 << PROBABILITY_BITS) - 1
        for k in range(steps):
            last = k == steps - 1
            if last:  # what was put aside before is taken by then
                cycle = max(cycle, ready)
            done = cycle
            plan.pulse(cycle, dut.valid, 1, 0)
            for port, value in ((dut.first, k == 0), (dut.last, last)):  # in gaps they say nothing
                plan.pulse(cycle, port, value, int(rng.integers(2)))
            plan.set(cycle, dut.element, number(elements[k], ALIGNED_BITS))
            plan.set(cycle, dut.operand, number(queries[k].reshape(-1), ALIGNED_BITS))
            plan.set(cycle, dut.probabilities, number(probabilities[k], PROBABILITY_BITS))
            plan.set(cycle, dut.beat, int(rng.integers(0, 1 << 62)))
            cycle += 1 + int(rng.integers(3)) * int(rng.integers(2))
        begin = done + Lanes.PUT_ASIDE
        for q in rng.permutation(QUERY_LANES):
            plan.set(begin, dut.select, int(q) * quarter)
            if values:
                sums = (probabilities[:, q, None] * elements).sum(0)
                assert np.abs(sums).max() < 1 << ADDED_BITS - 1
                plan.expect(begin + 1, dut.chosen, number(sums, ADDED_BITS), "sums of the lanes")
            else:
                dot = (queries[:, q] * elements).sum()
                plan.expect(begin + at_sum, dut.own[:WIDTH], number([dot], WIDTH), "sum of the quarter")
            begin += 1
        ready = begin - Lanes.PUT_ASIDE
    assert pipeline.PUT_ASIDE == pipeline.STEP_OPERANDS + Lanes.PUT_ASIDE

    async def bench(ctx: SimulatorContext) -> None:
        await plan.play(ctx)

    simulator = simulation(dut)
    simulator.add_testbench(bench)
    simulator.run()
