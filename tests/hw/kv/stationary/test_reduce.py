"""Largest scores and exponents, sums of probabilities and of weighted values, as one query after another is taken out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hw.kv.reduce import SUM_BITS
from hw.kv.stationary.port import HeldPort
from hw.kv.stationary.reduce import HeldReduction
from hw.pe.dot import PROBABILITY_BITS
from hw.pe.stationary.lanes import ADDED_BITS
from hw.pe.stationary.slice import StationarySlice
from skipopu.machine.config import QUERY_LANES, Machine
from tests.hw.kv.support import BuiltLibrary, Schedule, joined, simulate
from tests.hw.kv.test_reduce import NUMBERS, ROUNDS, from_key


@pytest.mark.parametrize("ports", [1, 3])
def test_keys_then_values(ports: int) -> None:
    machine = dataclasses.replace(Machine.load("tiny-masks"), ports=ports, soft_cap=False)
    dut, rng, plan = HeldReduction(machine, BuiltLibrary()), np.random.default_rng(0), Schedule()
    softmax, nothing = dut.softmax.step, {"valid": 0}
    shape = (ROUNDS, NUMBERS, ports, QUERY_LANES)
    keys, exponents = rng.integers(0, 1 << 32, shape), rng.integers(0, 32, shape)
    hidden = rng.random(shape) < 0.3
    hidden[0, :, 0] = False
    keys[hidden] = exponents[hidden] = 0
    weights = rng.integers(0, 1 << PROBABILITY_BITS, shape)
    limit = 1 << ADDED_BITS - 1
    products = rng.integers(-limit, limit, (*shape, machine.kv_lanes))
    at_score, depth = HeldPort.score_latency(machine), (ports - 1).bit_length()
    longest = max(at_score + depth, StationarySlice.PUT_ASIDE, HeldPort.WEIGHT_LATENCY + depth) + 1
    order = [(r, n, q) for r in range(ROUNDS) for n in rng.permutation(NUMBERS).tolist() for q in range(QUERY_LANES)]
    cycle = 4
    every = [(n, q) for n in range(NUMBERS) for q in range(QUERY_LANES)]
    for n, q in every:  # values of an instruction before, then its keys: what stands there is replaced
        plan.set(cycle, dut.phase.values, 1)
        for port, value in ((softmax.work, 1), (softmax.number, n), (softmax.lane, q), (dut.softmax.first, 1)):
            plan.pulse(cycle, port, value, 0)
        plan.pulse(cycle, dut.taken, {"valid": 1, "lane": q, "sum_number": n, "first": 1}, nothing)
        for p in range(ports):
            plan.pulse(cycle + HeldPort.WEIGHT_LATENCY, dut.scores[p].weight, (1 << PROBABILITY_BITS) - 1, 0)
            plan.pulse(cycle + 1, dut.products[p], joined([limit - 1] * machine.kv_lanes, ADDED_BITS), 0)
        cycle += 1
    cycle += longest
    plan.set(cycle, dut.phase.values, 0)
    plan.set(cycle, dut.phase.keys, 1)
    for n, q in every:
        plan.pulse(cycle, dut.taken, {"valid": 1, "lane": q, "number": n, "first": 1}, nothing)
        for p in range(ports):
            plan.pulse(cycle + at_score, dut.scores[p].score_keys, (1 << 32) - 1, 0)
            plan.pulse(cycle + at_score, dut.scores[p].value_exponents, 31, 0)
        cycle += 1
    for r, n, q in order:
        plan.pulse(cycle, dut.taken, {"valid": 1, "lane": q, "number": n, "first": r == 0}, nothing)
        for p in range(ports):
            plan.pulse(cycle + at_score, dut.scores[p].score_keys, int(keys[r, n, p, q]), 0)
            plan.pulse(cycle + at_score, dut.scores[p].value_exponents, int(exponents[r, n, p, q]), 0)
        cycle += 1 + int(rng.integers(2))
    plan.expect(cycle + longest - 3, dut.settled, 0, "settled")
    cycle += longest + 4
    plan.expect(cycle, dut.settled, 1, "settled")
    plan.pulse(cycle, dut.walking, 1, 0)  # what was walked comes later
    plan.expect(cycle + StationarySlice.PUT_ASIDE, dut.settled, 0, "settled")
    cycle += longest + 2
    plan.expect(cycle, dut.settled, 1, "settled")
    plan.set(cycle, dut.phase.keys, 0)
    plan.set(cycle + 1, dut.phase.values, 1)
    cycle += 2
    largest, fields = keys.max((0, 2)), exponents.max((0, 2))
    for r, n, q in order:
        for port, value in ((softmax.work, 1), (softmax.number, n), (softmax.lane, q), (dut.softmax.first, r == 0)):
            plan.pulse(cycle, port, value, 0)
        plan.expect(cycle + 1, dut.maximum, from_key(int(largest[n, q])), "maximum")
        plan.expect(cycle + 1, dut.reduced.exponent, int(fields[n, q]), "exponent")
        plan.pulse(cycle, dut.taken, {"valid": 1, "lane": q, "sum_number": n, "first": r == 0}, nothing)
        for p in range(ports):
            plan.pulse(cycle + HeldPort.WEIGHT_LATENCY, dut.scores[p].weight, int(weights[r, n, p, q]), 0)
            plan.pulse(cycle + 1, dut.products[p], joined(products[r, n, p, q], ADDED_BITS), 0)
        cycle += 1
    cycle += HeldPort.WEIGHT_LATENCY + SUM_BITS  # longer than any way
    plan.expect(cycle, dut.settled, 1, "settled")
    plan.set(cycle, dut.phase.values, 0)
    totals, sums = weights.sum((0, 2)), products.sum((0, 2))
    cycle += 1
    for n, q in every:
        for port, value in ((dut.reduced.read_number, n), (dut.reduced.read_lane, q)):
            plan.set(cycle, port, value)
        plan.set(cycle, dut.reduced.sum_address, n)
        plan.set(cycle, dut.reduced.sum_lane, q)
        plan.expect(cycle + 1, dut.reduced.total, int(totals[n, q]), "total")
        plan.expect(cycle + 1, dut.reduced.exponent, int(fields[n, q]), "exponent")
        plan.expect(cycle + 1, dut.reduced.sums, joined(sums[n, q], SUM_BITS), "sums")
        cycle += 1
    simulate(dut, plan.play)
