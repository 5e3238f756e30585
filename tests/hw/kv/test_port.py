"""A port's scores, probabilities and aligned elements against the machine's numerics, each in its cycle."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.port import HIDDEN, AttentionPort
from hw.kv.soft_cap import CappedStep, SoftCap
from hw.pe.slice import Slice
from skipopu.layout import KvEntry
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.machine.pipeline import OPERANDS
from skipopu.numerics import fp16, fp32, soft_cap
from skipopu.numerics.align import ALIGNED_BIAS, ALIGNED_BITS
from skipopu.numerics.tables import exp2_negative, shift_half_up
from tests.hw.kv.support import Schedule, joined, simulate
from tests.hw.kv.test_format import packed, random_heads

MACHINE = Machine.load("tiny")
ENTRY = KvEntry(2, 16, MACHINE)
LANES, POSITION, BLOCKS, SCORE = MACHINE.kv_lanes, 5, 2, 40


def order_key(score: np.float32) -> int:
    bits = int(fp32.bits(score))
    return bits ^ 0xFFFFFFFF if bits >> 31 else bits | 1 << 31


@pytest.mark.parametrize("cap", [0.0, 4.0])
@pytest.mark.parametrize("token", [3, 6])
def test_an_entry(token: int, cap: float) -> None:
    """Token 6 is seen by slots from 1 on."""
    dut, rng, plan = AttentionPort(MACHINE), np.random.default_rng(token), Schedule()
    step, softmax, work, lockstep = dut.lockstep.kv_step, dut.lockstep.softmax_step, dut.work, dut.lockstep
    heads = random_heads(rng, ENTRY) + np.float32(0.5)
    heads[1, 0] /= 64  # another exponent than the next head's
    halves, fields, beats = packed(ENTRY, heads)
    aligned = np.stack([fp16.align(halves[v], fields[:, v, None]) for v in (0, 1)]).astype(np.int64)
    shape = (ENTRY.kv_heads, BLOCKS, QUERY_LANES)
    query = rng.integers(-(1 << 17) + 1, 1 << 17, (*shape, ENTRY.head_dim))
    query_exponents = rng.integers(ALIGNED_BIAS - 25, ALIGNED_BIAS - 15, shape)
    slots, lanes = rng.integers(0, MACHINE.tokens, (BLOCKS, QUERY_LANES)), [0b1111, 0b1011]
    exact = np.einsum("hbqd,hd->hbq", query, aligned[0])
    exponent = query_exponents - ALIGNED_BIAS + (fields[:, 0] - fp16.ALIGNED_BIAS)[:, None, None]
    scores = fp32.narrow(np.ldexp(exact.astype(np.float64), exponent))
    seen = (token - POSITION <= slots) & np.array([[m >> q & 1 for q in range(QUERY_LANES)] for m in lanes], bool)
    dot_bits = Slice.dot_bits(MACHINE)
    factor = soft_cap.factor(cap)

    def capped(lane: int, number: int, parity: int) -> int:
        fields = {"lane": lane, "number": number, "parity": parity, "capping": cap > 0, "factor": int(fp32.bits(factor))}
        return CappedStep(MACHINE).const(fields).as_bits()

    for port, value in (
        (work.token, token),
        (work.score, SCORE),
        (work.softmax_score, SCORE),
        (lockstep.position, POSITION),
        (lockstep.capped, capped(0, 0, 0)),
    ):
        plan.set(0, port, value)
    for port in (dut.phase.keys, work.working):
        plan.set(0, port, 1)

    cycle = 1
    for number in range(ENTRY.header_beats):
        plan.pulse(cycle, step, {"header": 1, "header_number": number}, {})
        plan.set(cycle, work.kv_beat, beats[number])
        cycle += 1
    for h in range(ENTRY.kv_heads):
        for b in range(ENTRY.head_beats):
            part = slice(LANES * b, LANES * (b + 1))
            for k in range(BLOCKS):
                last = b == ENTRY.head_beats - 1
                what = {
                    "work": 1,
                    "kv_head": h,
                    "block": k,
                    "lanes": lanes[k],
                    "slots": slots[k].tolist(),
                    "first_beat": b == 0,
                    "last_beat": last,
                    "number": h * BLOCKS + k,
                    "number_first": h * BLOCKS,
                }
                plan.pulse(cycle, step, what, {})
                plan.set(cycle, work.kv_beat, beats[ENTRY.header_beats + h * ENTRY.head_beats + b])
                plan.pulse(cycle + 1, lockstep.query_exponents, joined(query_exponents[h, k], 8), 0)
                plan.expect(cycle + OPERANDS, dut.element, joined(aligned[0, h, part], ALIGNED_BITS), "element")
                dots = query[h, k, :, part] @ aligned[0, h, part]
                plan.pulse(cycle + Slice.dot_latency(MACHINE), dut.dots, joined(dots, dot_bits), 0)
                if last:
                    at = cycle + AttentionPort.score_latency(MACHINE)
                    shown = [order_key(scores[h, k, q]) if seen[k, q] else 0 for q in range(QUERY_LANES)]
                    plan.expect(at, dut.scores.score_keys, joined(shown, 32), "score keys")
                    plan.expect(at, dut.scores.value_exponents, joined(np.where(seen[k], fields[h, 1], 0), 5), "exponents")
                    plan.expect(at + 1, dut.scores.score_keys, 0, "keys of no head") if k == BLOCKS - 1 else None
                cycle += 1

    cycle += AttentionPort.score_latency(MACHINE) + 2
    plan.set(cycle, dut.phase.keys, 0)
    plan.set(cycle, dut.phase.values, 1)
    plan.set(cycle, work.weighing, 1)
    # Some other token's score; from 64 on nothing is left of the distance's lower bits.
    maximum = fp32.add(scores, (rng.uniform(0, 3, shape) + rng.choice([0, 0, 66], shape)).astype(np.float32))
    shared = int(fields[:, 1].max())
    if cap:
        maximum, scores = soft_cap.capped(maximum, factor), soft_cap.capped(scores, factor)
    probabilities = np.where(seen, exp2_negative(fp32.add(maximum, -scores)), 0)
    late = SoftCap.LATENCY if cap else 0
    scaled = shift_half_up(probabilities, (shared - fields[:, 1])[:, None, None])
    written: dict[tuple[int, int, int], int] = {}
    for parity in (1, 0):
        for h in range(ENTRY.kv_heads):
            for k in range(BLOCKS):
                for q in range(QUERY_LANES):
                    if not lanes[k] >> q & 1:
                        continue
                    what = {"work": 1, "lane": q, "number": h * BLOCKS + k, "number_first": h * BLOCKS, "parity": parity}
                    plan.pulse(cycle, softmax, what, {})
                    begun = cycle + late
                    plan.pulse(begun, lockstep.capped, capped(q, h * BLOCKS + k, parity), capped(0, 0, 0))
                    plan.set(begun + 2, lockstep.maximum, int(fp32.bits(maximum[h, k, q])))
                    plan.set(begun + 2, lockstep.shared_exponent, shared)
                    plan.expect(begun + AttentionPort.WEIGHT_LATENCY, dut.scores.weight, int(probabilities[h, k, q]), "weight")
                    written[h, k, q] = begun + AttentionPort.WRITTEN
                    cycle += 1
    cycle = max(cycle, min(written.values()))
    for h in range(ENTRY.kv_heads):
        for b in range(ENTRY.head_beats):
            part = slice(LANES * b, LANES * (b + 1))
            for k in range(BLOCKS):
                for q in range(QUERY_LANES):
                    if not lanes[k] >> q & 1:
                        continue
                    cycle = max(cycle, written[h, k, q])
                    what = {"work": 1, "kv_head": h, "lane": q, "number": h * BLOCKS + k, "number_first": h * BLOCKS}
                    plan.pulse(cycle, step, what, {})
                    beat = ENTRY.key_beats + h * ENTRY.head_beats + b
                    plan.set(cycle, work.kv_beat, beats[beat])
                    plan.expect(cycle + OPERANDS, dut.element, joined(aligned[1, h, part], ALIGNED_BITS), "element of V")
                    plan.expect(cycle + OPERANDS, dut.probability, int(scaled[h, k, q]), "probability")
                    cycle += 1
    plan.expect(cycle + OPERANDS, dut.element, 0, "no element")
    plan.expect(cycle + OPERANDS, dut.probability, 0, "no probability")

    async def bench(ctx: SimulatorContext) -> None:
        await plan.play(ctx)

    assert HIDDEN >> 23 & 255 == 255  # no score's exponent
    simulate(dut, bench)
