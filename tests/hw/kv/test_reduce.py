"""Largest scores and exponents, sums of probabilities and of weighted values, whatever the order of rounds."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.lockstep import EXPONENT_BITS
from hw.kv.port import AttentionPort
from hw.kv.reduce import SUM_BITS, Reduction
from hw.pe.dot import PROBABILITY_BITS, WEIGHTED_BITS
from hw.pe.slice import Slice
from skipopu.machine.config import QUERY_LANES, Machine
from tests.hw.kv.support import BuiltLibrary, Schedule, joined, simulate

NUMBERS, ROUNDS = 6, 4
KEY_LIMIT = 1 << 31  # order keys of negative numbers lie below


def from_key(key: int) -> int:
    return key ^ KEY_LIMIT if key & KEY_LIMIT else key ^ 0xFFFFFFFF


@pytest.mark.parametrize("target", ["mono", "trio"])
def test_keys_then_values(target: str) -> None:
    machine = Machine.load(target)
    dut, rng, ports = Reduction(machine, BuiltLibrary()), np.random.default_rng(0), machine.ports
    plan, step, softmax = Schedule(), dut.round.step, dut.softmax.step
    shape = (ROUNDS, NUMBERS, ports, QUERY_LANES)
    keys, exponents = rng.integers(0, 1 << 32, shape), rng.integers(0, 32, shape)
    hidden = rng.random(shape) < 0.3
    hidden[0, :, 0] = False
    keys[hidden] = exponents[hidden] = 0
    weights = rng.integers(0, 1 << PROBABILITY_BITS, shape)
    limit = 1 << WEIGHTED_BITS - 1
    products = rng.integers(-limit, limit, (*shape, machine.kv_lanes))
    cycle = 4
    plan.set(1, dut.phase.keys, 1)
    for n in range(NUMBERS):  # keys of an instruction before: what stands there is replaced
        for port, value in ((step.work, 1), (step.last_beat, 1), (step.number, n), (dut.round.first, 1)):
            plan.pulse(cycle, port, value, 0)
        for p in range(ports):
            at = cycle + AttentionPort.score_latency(machine)
            plan.pulse(at, dut.scores[p].score_keys, -1, 0)
            plan.pulse(at, dut.scores[p].value_exponents, -1, 0)
        cycle += 1
    for r in range(ROUNDS):
        for n in rng.permutation(NUMBERS):
            for port, value in ((step.work, 1), (step.last_beat, 1), (step.number, int(n)), (dut.round.first, r == 0)):
                plan.pulse(cycle, port, value, 0)
            at = cycle + AttentionPort.score_latency(machine)
            for p in range(ports):
                plan.pulse(at, dut.scores[p].score_keys, joined(keys[r, n, p], 32), 0)
                plan.pulse(at, dut.scores[p].value_exponents, joined(exponents[r, n, p], EXPONENT_BITS), 0)
            cycle += 1 + int(rng.integers(2))
    depth = (ports - 1).bit_length()
    into_score = AttentionPort.score_latency(machine) + depth + 1
    plan.expect(cycle - 1, dut.settled, 0, "settled")
    cycle += into_score + 4 + SUM_BITS  # longer than any way
    plan.expect(cycle, dut.settled, 1, "settled")
    plan.set(cycle, dut.phase.keys, 0)
    plan.set(cycle + 1, dut.phase.values, 1)
    cycle += 2
    largest, fields = keys.max((0, 2)), exponents.max((0, 2))
    order = [(r, n, q) for r in range(ROUNDS) for n in rng.permutation(NUMBERS) for q in range(QUERY_LANES)]
    for r, n, q in order:
        for port, value in ((softmax.work, 1), (softmax.number, int(n)), (softmax.lane, q), (dut.softmax.first, r == 0)):
            plan.pulse(cycle, port, value, 0)
        plan.expect(cycle + 1, dut.maximum, from_key(int(largest[n, q])), "maximum")
        plan.expect(cycle + 1, dut.reduced.exponent, int(fields[n, q]), "exponent")
        # Values of the same round beside them; here sums are numbered as query words are.
        for port, value in ((step.work, 1), (step.lane, q), (dut.round.sum_number, int(n)), (dut.round.first, r == 0)):
            plan.pulse(cycle, port, value, 0)
        for p in range(ports):
            plan.pulse(cycle + AttentionPort.WEIGHT_LATENCY, dut.scores[p].weight, int(weights[r, n, p, q]), 0)
            at = cycle + Slice.product_latency(machine)
            plan.pulse(at, dut.products[p], joined(products[r, n, p, q], WEIGHTED_BITS), 0)
        cycle += 1
    plan.expect(cycle + 1, dut.settled, 0, "settled")
    cycle += into_score + 4 + SUM_BITS
    plan.expect(cycle, dut.settled, 1, "settled")
    plan.set(cycle, dut.phase.values, 0)
    totals, sums = weights.sum((0, 2)), products.sum((0, 2))
    cycle += 1
    for n in range(NUMBERS):
        for q in range(QUERY_LANES):
            for port, value in ((dut.reduced.read_number, n), (dut.reduced.read_lane, q)):
                plan.set(cycle, port, value)
            plan.set(cycle, dut.reduced.sum_address, n)
            plan.set(cycle, dut.reduced.sum_lane, q)
            plan.expect(cycle + 1, dut.reduced.total, int(totals[n, q]), "total")
            plan.expect(cycle + 1, dut.reduced.exponent, int(fields[n, q]), "exponent")
            plan.expect(cycle + 1, dut.reduced.sums, joined(sums[n, q], SUM_BITS), "sums")
            cycle += 1

    async def bench(ctx: SimulatorContext) -> None:
        await plan.play(ctx)

    simulate(dut, bench)


def test_settled_as_soon_as_everything_is_in() -> None:
    """What the last step of keys adds is read when ``settled`` says so, and not a cycle before."""
    machine = Machine.load("trio")
    dut = Reduction(machine, BuiltLibrary())
    latest = AttentionPort.score_latency(machine) + (machine.ports - 1).bit_length()

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.phase.keys, 1)
        ctx.set(dut.round.first, 1)
        for port in (dut.round.step.work, dut.round.step.last_beat):
            ctx.set(port, 1)
        await ctx.tick()
        ctx.set(dut.round.step, {})
        for cycle in range(1, latest + 3):
            ctx.set(dut.scores[0].score_keys, KEY_LIMIT if cycle == AttentionPort.score_latency(machine) else 0)
            in_memory = ctx.get(dut.maximum) == 0
            assert in_memory or not ctx.get(dut.settled)
            await ctx.tick()
        assert in_memory
        assert ctx.get(dut.settled)

    simulate(dut, bench)
