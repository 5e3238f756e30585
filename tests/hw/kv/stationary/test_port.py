"""A port's scores, one query at a time, its probabilities of several rounds and aligned elements, each in its cycle."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hw.kv.lockstep import EXPONENT_BITS
from hw.kv.shapes import HeadShapes
from hw.kv.soft_cap import CappedStep
from hw.kv.stationary.port import STEP_TAKEN, HeldPort
from hw.kv.stationary.walk import Taken
from hw.pe.dot import PROBABILITY_BITS
from hw.pe.stationary.lanes import Lanes
from skipopu.layout import KvEntry
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.machine.pipeline import OPERANDS
from skipopu.numerics import fp16, fp32
from skipopu.numerics.accumulate import WIDTH
from skipopu.numerics.align import ALIGNED_BIAS, ALIGNED_BITS
from skipopu.numerics.tables import exp2_negative, shift_half_up
from tests.hw.kv.support import Schedule, joined, simulate
from tests.hw.kv.test_format import packed, random_heads
from tests.hw.kv.test_port import order_key

MACHINE = dataclasses.replace(Machine.load("tiny-masks"), port_bits=64)
ENTRY = KvEntry(5, 2 * MACHINE.kv_lanes, MACHINE)  # two header beats
WIDE, POSITION, BLOCKS, SCORE = MACHINE.kv_lanes, 5, 2, 40
SHAPE = (ENTRY.kv_heads, BLOCKS, QUERY_LANES)
LARGEST = HeadShapes(MACHINE).most_head_beats * WIDE * ((1 << ALIGNED_BITS - 1) - 1) ** 2  # sum of a head's products


def of_others(dut: HeldPort, plan: Schedule, cycle: int, own: bool = False) -> int:
    """An entry's header, and a step of it, in which this port has no part; or the header is its own. Returns the cycle behind them."""
    step, at = dut.lockstep.kv_step, cycle + ENTRY.header_beats
    plan.set(cycle, dut.work.working, int(own))
    for number in range(ENTRY.header_beats):
        plan.pulse(cycle + number, step, {"header": 1, "header_number": number}, {})
        plan.pulse(cycle + number + 1, dut.beat, 0x0103050709020406, 0)
    plan.set(at, dut.work.working, 0)
    plan.pulse(at, step, {"work": 1, "lanes": 15, "slots": [MACHINE.tokens - 1] * QUERY_LANES, "first_beat": 1}, {})
    plan.pulse(at + 1, dut.beat, joined([0x3C00] * WIDE, 16), 0)
    plan.expect(at + OPERANDS, dut.element, 0, "no element")
    plan.set(at + 1, dut.work.working, 1)
    at += STEP_TAKEN
    for q in range(QUERY_LANES):
        plan.pulse(at + q, dut.lockstep.taken, Taken(MACHINE).const({"valid": 1, "begin": q == 0, "lane": q}).as_bits(), 0)
        plan.pulse(at + q + Lanes.selected(MACHINE), dut.dot, 1 << 40, 0)
        plan.expect(at + q + HeldPort.score_latency(MACHINE), dut.scores.score_keys, 0, "no key")
        plan.expect(at + q + HeldPort.score_latency(MACHINE), dut.scores.value_exponents, 0, "no exponent")
    return at + QUERY_LANES + HeldPort.score_latency(MACHINE)


@pytest.mark.parametrize("together", [0, 2])
@pytest.mark.parametrize("token", [3, 6])
def test_an_entry(token: int, together: int) -> None:
    """Token 6 is seen by slots from 1 on; the second block has three queries."""
    dut, rng, plan = HeldPort(MACHINE), np.random.default_rng(token), Schedule()
    step, softmax, work, lockstep = dut.lockstep.kv_step, dut.lockstep.softmax_step, dut.work, dut.lockstep
    heads = random_heads(rng, ENTRY) + np.float32(0.5)
    heads[1, 0] /= 64  # another exponent than the next head's
    halves, fields, beats = packed(ENTRY, heads)
    aligned = np.stack([fp16.align(halves[v], fields[:, v, None]) for v in (0, 1)]).astype(np.int64)
    query = rng.integers(-(1 << 17) + 1, 1 << 17, (*SHAPE, ENTRY.head_dim))
    query_exponents = rng.integers(ALIGNED_BIAS - 25, ALIGNED_BIAS - 15, SHAPE)
    slots, lanes = rng.integers(0, MACHINE.tokens, (BLOCKS, QUERY_LANES)), [0b1111, 0b1011]
    exists = np.array([[m >> q & 1 for q in range(QUERY_LANES)] for m in lanes], bool)
    exact = np.einsum("hbqd,hd->hbq", query, aligned[0])
    exact[0, 0, 1:3] = LARGEST, -LARGEST
    exponent = query_exponents - ALIGNED_BIAS + (fields[:, 0] - fp16.ALIGNED_BIAS)[:, None, None]
    scores = fp32.narrow(np.ldexp(exact.astype(np.float64), exponent))
    seen = (token - POSITION <= slots) & exists
    for port, value in (
        (work.token, token),
        (work.score, SCORE),
        (work.softmax_score, SCORE),
        (work.working, 1),
        (lockstep.position, POSITION),
        (lockstep.together, together),
        (dut.phase.keys, 1),
    ):
        plan.set(0, port, value)

    def fields_of(h: int, k: int, b: int) -> dict[str, object]:
        number = {"number": h * BLOCKS + k, "number_first": h * BLOCKS}
        return {"work": 1, "kv_head": h, "lanes": lanes[k], "slots": slots[k].tolist(), "first_beat": b == 0, **number}

    cycle = 1
    for number in range(ENTRY.header_beats):
        plan.pulse(cycle, step, {"header": 1, "header_number": number}, {})
        plan.pulse(cycle + 1, dut.beat, beats[number], 0)
        cycle += 1
    cycle = of_others(dut, plan, cycle)
    for h in range(ENTRY.kv_heads):
        for k in range(BLOCKS):
            for b in range(ENTRY.head_beats):
                part = slice(WIDE * b, WIDE * (b + 1))
                plan.pulse(cycle, step, fields_of(h, k, b), {})
                plan.pulse(cycle + 1, dut.beat, beats[ENTRY.header_beats + h * ENTRY.head_beats + b], 0)
                plan.pulse(cycle + 1, lockstep.query_exponents, joined(query_exponents[h, k], 8), 0)
                plan.expect(cycle + OPERANDS, dut.element, joined(aligned[0, h, part], ALIGNED_BITS), "element")
                cycle += 1
            for turn, q in enumerate(np.flatnonzero(exists[k])):
                at = cycle - 1 + STEP_TAKEN + turn
                taken = {"valid": 1, "begin": turn == 0, "lane": int(q), "number": h * BLOCKS + k}
                plan.pulse(at, lockstep.taken, Taken(MACHINE).const(taken).as_bits(), 0)
                plan.pulse(at + Lanes.selected(MACHINE), dut.dot, joined([exact[h, k, q]], WIDTH), 0)
                at += HeldPort.score_latency(MACHINE)
                plan.expect(at, dut.scores.score_keys, order_key(scores[h, k, q]) if seen[k, q] else 0, "score key")
                plan.expect(at, dut.scores.value_exponents, int(fields[h, 1]) if seen[k, q] else 0, "exponent")
            cycle += QUERY_LANES - ENTRY.head_beats
    cycle += STEP_TAKEN + HeldPort.score_latency(MACHINE) + 2
    plan.expect(cycle - 1, dut.scores.score_keys, 0, "keys of no head")
    cycle = of_others(dut, plan, cycle, own=True)  # from now on the header is another entry's
    plan.set(cycle, dut.phase.keys, 0)
    plan.set(cycle, dut.phase.values, 1)
    plan.set(cycle, work.weighing, 1)
    maximum = fp32.add(scores, rng.uniform(0, 3, SHAPE).astype(np.float32))  # some other token's score
    shared = int(fields[:, 1].max())
    probabilities = np.where(seen, exp2_negative(fp32.add(maximum, -scores)), 0)
    rounds = rng.permutation(2 << together)[:2].tolist()
    scaled: dict[int, np.ndarray] = {}
    for turn, number in enumerate(rounds):  # of the second one another maximum
        shift = shared + turn
        scaled[number] = shift_half_up(probabilities, (shift - fields[:, 1])[:, None, None])
        for h, k, q in np.argwhere(np.broadcast_to(exists, SHAPE)).tolist():
            what = {"work": 1, "lane": q, "number": h * BLOCKS + k, "number_first": h * BLOCKS, "parity": number}
            plan.pulse(cycle, softmax, what, {})
            capped = CappedStep(MACHINE).const({"lane": q, "number": h * BLOCKS + k, "parity": number})
            plan.pulse(cycle, lockstep.capped, capped.as_bits(), 0)
            plan.set(cycle + 2, lockstep.maximum, int(fp32.bits(maximum[h, k, q])))
            plan.set(cycle + 2, lockstep.shared_exponent, shift)
            plan.expect(cycle + HeldPort.WEIGHT_LATENCY, dut.scores.weight, int(probabilities[h, k, q]), "weight")
            cycle += 1
    cycle += HeldPort.WRITTEN - 1
    for h in range(ENTRY.kv_heads):
        for b in range(ENTRY.head_beats):
            part = slice(WIDE * b, WIDE * (b + 1))
            for k in range(BLOCKS):
                for number in rounds:
                    plan.pulse(cycle, step, fields_of(h, k, b) | {"round": number}, {})
                    plan.pulse(cycle + 1, dut.beat, beats[ENTRY.key_beats + h * ENTRY.head_beats + b], 0)
                    plan.expect(cycle + OPERANDS, dut.element, joined(aligned[1, h, part], ALIGNED_BITS), "element of V")
                    at = cycle + STEP_TAKEN
                    plan.pulse(at, lockstep.taken, Taken(MACHINE).const({"valid": 1, "begin": 1}).as_bits(), 0)
                    plan.expect(at + HeldPort.score_latency(MACHINE), dut.scores.score_keys, 0, "no keys of values")
                    for q in np.flatnonzero(exists[k]).tolist():
                        own = dut.probabilities.word_select(q, PROBABILITY_BITS)
                        plan.expect(cycle + OPERANDS, own, int(scaled[number][h, k, q]), "probability")
                    cycle += 1
    plan.expect(cycle + OPERANDS, dut.element, 0, "no element")

    simulate(dut, plan.play)


def test_a_score_beyond_fp32() -> None:
    """Is the largest number, and told; a sum that is not this port's is not."""
    dut, plan = HeldPort(MACHINE), Schedule()
    largest, at_score = order_key(np.float32(fp32.LARGEST)), HeldPort.score_latency(MACHINE)
    plan.set(0, dut.phase.keys, 1)
    plan.set(0, dut.work.working, 1)
    plan.pulse(0, dut.lockstep.kv_step, {"header": 1}, {})
    plan.pulse(1, dut.beat, (1 << EXPONENT_BITS) - 1, 0)  # of the first head's keys
    for cycle, mine in ((2, 1), (30, 0)):
        plan.set(cycle, dut.work.working, mine)
        plan.pulse(cycle, dut.lockstep.kv_step, {"work": 1, "lanes": 1, "first_beat": 1}, {})
        plan.pulse(cycle + 1, dut.lockstep.query_exponents, 255, 0)
        at = cycle + STEP_TAKEN
        plan.pulse(at, dut.lockstep.taken, Taken(MACHINE).const({"valid": 1, "begin": 1}).as_bits(), 0)
        plan.pulse(at + Lanes.selected(MACHINE), dut.dot, LARGEST, 0)
        plan.expect(at + at_score - 1, dut.score_saturated, 0, "saturated")
        plan.expect(at + at_score, dut.score_saturated, mine, "saturated")
        plan.expect(at + at_score, dut.scores.score_keys, largest * mine, "score key")
    simulate(dut, plan.play)
