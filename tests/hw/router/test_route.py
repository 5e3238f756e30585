"""Both bits of every slot over several layers, by each policy, with the signature and the cycles that are promised."""

from __future__ import annotations

import random

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.router.route import RouteUnit
from hw.router.score import Score
from skipopu import policy
from skipopu.isa.spec import BUFFER_UNIT, ROUTE
from skipopu.layout import pack_router_record
from skipopu.machine.config import Machine
from skipopu.numerics import fp32
from skipopu.numerics.signature import index, signature
from skipopu.policy import POLICY_BITS, Decision, Pair, SkipPolicy, Weighs
from tests.hw.bench import exercise

UNKNOWN = SkipPolicy("unknown", (1 << POLICY_BITS) - 1, "a code that no machine knows: it skips", lambda decision: False)
POLICIES = [
    (policy.ROUTER, policy.ROUTER),
    (policy.ALWAYS, policy.ROUTER),
    (policy.TRACE, policy.NEVER),
    (policy.ROUTER, policy.TRACE),
    (UNKNOWN, policy.ALWAYS),
    (policy.EXIT, policy.EXIT),
    (policy.EXIT, policy.TRACE),
    (policy.NORM, policy.NORM),
    (policy.NORM, policy.EXIT),
]
LAYERS = 4
WINDOW, NEXT_WINDOW = 0x123456, 0xABCDEF
RECORD, TRACE, POSITION, SOURCE, STRIDE, DIAL = 3, 9, 13, 2, 1, np.float32(0.25)


@pytest.mark.parametrize("target", ["mono", "tiny", "u280-slice4"])
@pytest.mark.parametrize("policies", POLICIES, ids=lambda pair: "-".join(p.name for p in pair))
@pytest.mark.parametrize("decoding", [False, True])
def test_decisions(target: str, policies: Pair, decoding: bool) -> None:
    machine, source = Machine.load(target), np.random.default_rng(2 * POLICIES.index(policies) + decoding)
    dut, lanes, count, beat_bytes = RouteUnit(machine), machine.vector_lanes, machine.tokens, machine.beat_bytes
    scores = source.standard_normal(BUFFER_UNIT * 8 * (machine.tokens + LAYERS)).astype(np.float32)
    bias = source.standard_normal(2).astype(np.float32)
    masks = [int(bits) for bits in source.integers(1, 1 << count, LAYERS)]
    norms = (1 + source.random((LAYERS, count))).astype(np.float32)
    memory = np.zeros(1024, np.uint8)
    other = policies[1], policies[0]
    phases = (other, policies) if decoding else (policies, other)
    record = pack_router_record((float(bias[0]), float(bias[1])), phases, (WINDOW, NEXT_WINDOW))
    memory[64 * RECORD : 64 * RECORD + len(record)] = record
    memory[64 * TRACE : 64 * TRACE + 64] = source.integers(0, 4, 64)

    expected, digests, last = [[0, 0]], [], np.zeros(count, np.float32)
    for layer, mask in enumerate(masks):
        decided, where, values = [0, 0], [], []
        for slot in range(count):
            if not mask >> slot & 1:
                continue
            bits = [0, 0]
            for k, each in enumerate(policies):
                digits = scores[BUFFER_UNIT * (SOURCE + layer + STRIDE * slot) + 2 * k :][:2]
                z, dial = fp32.add(fp32.add(digits[0], digits[1]), bias[k]), DIAL
                of_norm = each.weighs is Weighs.NORM
                if of_norm:
                    was, norm = last[slot] * np.float32(layer > 0), norms[layer, slot]
                    z, dial = fp32.add(was, -norm), fp32.multiply(DIAL, norm)
                where.append(index(1, slot, k))
                values.append(fp32.bits(z))
                traced = memory[64 * TRACE + POSITION + slot] >> k & 1
                before = layer == 0 or bool(expected[-1][k] >> slot & 1)
                weighed = abs(z) if of_norm else z
                bits[k] = int(each.rule(Decision(weighed, dial, POSITION + slot, bool(traced), before)))
                decided[k] |= bits[k] << slot
            where.append(index(0, slot, 0))
            values.append(np.uint32(bits[0] | bits[1] << 1))
            last[slot] = norms[layer, slot]
        expected.append(decided)
        digests.append(signature(np.array(where), np.array(values)))
    cycles = waits = 0

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        nonlocal cycles, waits
        cycles = waits = 0
        ctx.set(dut.decoding, decoding)
        for layer, mask in enumerate(masks):
            fields = {"mask": mask, "count": count, "address": RECORD, "trace_row": TRACE, "position": POSITION}
            word = ROUTE.encode({"src": SOURCE + layer, "stride": STRIDE})
            ctx.set(dut.instruction, {**fields, "word": word, "first_layer": layer == 0})
            ctx.set(dut.inverse_rms, sum(int(bits) << 32 * slot for slot, bits in enumerate(fp32.bits(norms[layer]))))
            ctx.set(dut.next, 1)
            # The record comes while the router product is on its way.
            for _ in range(30 if stalls is None else stalls.randrange(30)):
                assert not ctx.get(dut.read_enable)
                await ctx.tick()
            ctx.set(dut.next, 0)
            ctx.set(dut.active, 1)
            done = 0
            while not done:
                *_, done, seen = await ctx.tick().sample(dut.done, dut.digest)
                cycles += 1
            ctx.set(dut.active, 0)
            assert seen == digests[layer]
            assert [ctx.get(dut.routed.attention), ctx.get(dut.routed.ffn)] == expected[layer + 1]
            if machine.window:
                assert [ctx.get(dut.window), ctx.get(dut.window_next)] == [WINDOW, NEXT_WINDOW]

    async def beside(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        """The buffer, and memory behind port 0's loader."""
        nonlocal waits
        pending: list[int] = []
        while True:
            asks = stalls is None or stalls.random() < 0.5
            comes = bool(pending) and (stalls is None or stalls.random() < 0.5)
            ctx.set(dut.runs.ready, asks)
            ctx.set(dut.beats.valid, comes)
            if comes:
                data = memory[beat_bytes * pending[0] :][:beat_bytes]
                ctx.set(dut.beats.payload, int.from_bytes(data.tobytes(), "little"))
            ports = (dut.runs.valid, dut.runs.payload, dut.beats.ready, dut.read_enable, dut.read_address, dut.waiting)
            *_, asked, run, taken, enable, address, waiting = await ctx.tick().sample(*ports)
            if comes and taken:
                pending.pop(0)
            if asked and asks:
                pending += range(run.beat, run.beat + run.count)
            waits += waiting
            first = address // lanes * lanes
            words = [int(bits) for bits in fp32.bits(scores[first : first + lanes])]
            ctx.set(dut.read_data, sum(bits << 32 * k for k, bits in enumerate(words)) if enable else 0)

    constants = [(dut.dial, int(fp32.bits(DIAL)))]
    exercise(dut, {}, {}, constants=constants, drive=drive, beside=beside, seeds=range(1), patience=1000)
    listed, traced = sum(mask.bit_count() for mask in masks), any(each.reads_trace for each in policies)
    assert waits == 0
    assert cycles == listed * (5 + 2 * Score.LATENCY + 2 * traced) + 2 * (LAYERS * count - listed) + 5 * LAYERS
