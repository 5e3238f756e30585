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
from skipopu.machine.accepted import LARGEST_BUFFER
from skipopu.machine.config import Machine
from skipopu.machine.pipeline import SIGNATURE
from skipopu.numerics import fp32
from skipopu.numerics.signature import index, signature
from skipopu.policy import POLICY_BITS, Decision, Pair, SkipPolicy, Weighs
from skipopu.records import pack_router_record
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
    (policy.TOP[0], policy.TOP[1]),
    (policy.TOP[2], policy.EXIT),
]
LAYERS, FIRST = 5, (0, 3)  # of two chunks; where each begins
WINDOW, NEXT_WINDOW = 0x123456, 0xABCDEF
ABOVE_4_GB = 1 << 27  # 64-byte units
RECORD, TRACE, POSITION, STRIDE, DIAL = ABOVE_4_GB + 3, ABOVE_4_GB + 9, 13, 1, np.float32(0.25)
BUFFER = LARGEST_BUFFER - 2048  # elements before those of the router products
SOURCE = BUFFER // BUFFER_UNIT + 2


def machine_of(name: str) -> Machine:
    """A target, or one that takes 8 tokens at once."""
    return Machine.load("tiny").with_chunk(8) if name == "eight" else Machine.load(name)


@pytest.mark.parametrize("target", ["mono", "tiny", "eight", "u280-slice4"])
@pytest.mark.parametrize("policies", POLICIES, ids=lambda pair: "-".join(p.name for p in pair))
def test_decisions(target: str, policies: Pair) -> None:
    machine, source = machine_of(target), np.random.default_rng([POLICIES.index(policies), len(target)])
    decoding = bool(source.integers(2))
    dut, lanes, beat_bytes = RouteUnit(machine), machine.vector_lanes, machine.beat_bytes
    # Multiples of a quarter, as the dial is: many are equal.
    scores = np.round(2 * source.standard_normal(BUFFER_UNIT * 8 * (machine.tokens + LAYERS))).astype(np.float32) / 2
    bias = np.round(4 * source.standard_normal(2)).astype(np.float32) / 4
    counts = [int(count) for count in source.integers(1, machine.tokens + 1, LAYERS)]
    masks = [int(source.integers(1, 1 << count)) | (source.random() < 0.5) * ((1 << count) - 1) for count in counts]
    norms = (1 + source.random((LAYERS, machine.tokens))).astype(np.float32)
    norms[3:, 0] = 1.25, 1  # it has come as far as the dial says
    memory = np.zeros(1024, np.uint8)
    other = policies[1], policies[0]
    phases = (other, policies) if decoding else (policies, other)
    record = pack_router_record((float(bias[0]), float(bias[1])), phases, (WINDOW, NEXT_WINDOW))
    memory[64 * (RECORD - ABOVE_4_GB) :][: len(record)] = record
    trace = memory[64 * (TRACE - ABOVE_4_GB) :][:64]
    trace[:] = source.integers(0, 4, 64)

    expected, digests, last = np.zeros((LAYERS + 1, machine.tokens, 2), bool), [], np.zeros(machine.tokens, np.float32)
    for layer, mask in enumerate(masks):
        slots = np.flatnonzero([mask >> slot & 1 for slot in range(machine.tokens)])
        before, norm = expected[layer, slots] | (layer in FIRST), norms[layer, slots]
        where, values = [index(0, slots, 0)], []
        for k, each in enumerate(policies):
            digits = BUFFER_UNIT * (SOURCE + layer + STRIDE * slots) + 2 * k - BUFFER
            z, dial = fp32.add(fp32.add(scores[digits], scores[digits + 1]), bias[k]), DIAL
            if each.weighs is Weighs.NORM:
                z, dial = fp32.add(last[slots] * np.float32(layer not in FIRST), -norm), fp32.multiply(DIAL, norm)
            where.append(index(1, slots, k))
            values.append(fp32.bits(z))
            weighed = abs(z) if each.weighs is Weighs.NORM else z
            traced = (trace[POSITION + slots] >> k & 1).astype(bool)
            place = policy.ranks(weighed, weighed, slots, slots // policy.WINDOW)
            rule = each.rule if each.runs_on(machine.tokens) else policy.NEVER.rule
            expected[layer + 1, slots, k] = rule(Decision(weighed, dial, POSITION + slots, traced, before[:, k], *place))
        last[slots] = norm
        both = expected[layer + 1, slots] @ np.array([1, 2])
        digests.append(signature(np.concatenate(where), np.concatenate([both.astype(np.uint32), *values])))
    cycles = waits = 0

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        nonlocal cycles, waits
        cycles = waits = 0
        ctx.set(dut.decoding, decoding)
        for layer, (mask, count) in enumerate(zip(masks, counts, strict=True)):
            fields = {"mask": mask, "count": count, "address": RECORD, "trace_row": TRACE, "position": POSITION}
            word = ROUTE.encode({"src": SOURCE + layer, "stride": STRIDE})
            ctx.set(dut.instruction, {**fields, "word": word, "first_layer": layer in FIRST})
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
            for k, bits in enumerate((dut.routed.attention, dut.routed.ffn)):
                assert [ctx.get(bits) >> slot & 1 for slot in range(machine.tokens)] == expected[layer + 1, :, k].tolist()
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
                data = memory[beat_bytes * pending[0] - 64 * ABOVE_4_GB :][:beat_bytes]
                ctx.set(dut.beats.payload, int.from_bytes(data.tobytes(), "little"))
            ports = (dut.runs.valid, dut.runs.payload, dut.beats.ready, dut.read_enable, dut.read_address, dut.waiting)
            *_, asked, run, taken, enable, address, waiting = await ctx.tick().sample(*ports)
            if comes and taken:
                pending.pop(0)
            if asked and asks:
                pending += range(run.beat, run.beat + run.count)
            waits += waiting
            first = address // lanes * lanes - BUFFER
            words = [int(bits) for bits in fp32.bits(scores[first : first + lanes])]
            ctx.set(dut.read_data, sum(bits << 32 * k for k, bits in enumerate(words)) if enable else 0)

    constants = [(dut.dial, int(fp32.bits(DIAL)))]
    exercise(dut, {}, {}, constants=constants, drive=drive, beside=beside, seeds=range(1), patience=2000)
    listed, traced = sum(mask.bit_count() for mask in masks), any(each.reads_trace for each in policies)
    ranked = any(each.keep and each.runs_on(machine.tokens) for each in policies)
    slots = sum(counts)
    assert waits == 0
    assert (
        cycles
        == listed * (5 + 2 * Score.LATENCY + 2 * traced) + 2 * (slots - listed) + ranked * slots + (2 + SIGNATURE) * LAYERS
    )
