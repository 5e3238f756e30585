"""Groups read back and aligned: padding, all targets, the signature, cycles; and one lane against the numerics."""

from __future__ import annotations

import dataclasses
import random
from functools import partial

import numpy as np
import pytest
from amaranth.hdl import signed
from amaranth.sim import Simulator, SimulatorContext

from hw.arithmetic.signature import Signature
from hw.vector.aligner import Aligner, align_lane
from hw.vector.rms import InverseRms
from skipopu.isa.spec import AlignTarget
from skipopu.machine.config import Machine
from skipopu.machine.pipeline import aligned
from skipopu.numerics import align, fp32
from skipopu.numerics.signature import ALIGNED, index, signature
from tests.hw.arithmetic.operands import RNG, function, numbers
from tests.hw.bench import exercise
from tests.hw.vector.support import buffer, packed, unpacked

TOKENS, LANES, STRIDE, INNER = 3, 4, 80, 64
MACHINE = dataclasses.replace(Machine.load("tiny"), tokens=TOKENS, vector_lanes=LANES)
INVERSE, EPSILON = np.float32(1 / 40), np.float32(1e-5)


def test_lane() -> None:
    x = numbers(600)
    group = np.minimum((x >> 23 & 255) + RNG.integers(0, 25, len(x)), 254).clip(1).astype(np.uint32)
    # A second element with the group's exponent fixes it in the model.
    mantissas, exponents = align.align(np.stack([x, group << 23], 1).view(np.float32), 2)
    assert (exponents[:, 0] == group).all()
    function(partial(align_lane, name="a"), [(32, x), (8, group)], signed(18), mantissas[:, 0, 0], latency=2)


@pytest.mark.parametrize(
    ("target", "group", "padded", "elements"),
    [
        (AlignTarget.RESIDUAL, 32, 32, 77),
        (AlignTarget.INNER, 32, 32, 64),
        (AlignTarget.QUERY, 12, 16, 36),
        (AlignTarget.RESIDUAL, 8, 8, 77),
        (AlignTarget.RESIDUAL, 16, 16, 64),
        (AlignTarget.INNER, 8, 8, 45),
    ],
)
def test_groups(target: AlignTarget, group: int, padded: int, elements: int) -> None:
    rng = np.random.default_rng(int(target))
    listed = [0, 2]
    contents = numbers(TOKENS * STRIDE, rng)  # what lies between the vectors is not aligned
    middle = contents >> 23 & 255
    contents = np.where(middle > 150, contents & 0x807FFFFF | 130 << 23, contents).astype(np.uint32)
    x = np.stack([contents[slot * STRIDE :][:elements] for slot in range(TOKENS)]).view(np.float32)
    mantissas, exponents = align.align(x, group)
    expected_rms = fp32.bits(align.inverse_rms(mantissas, exponents, INVERSE, EPSILON))
    groups, writes, where, values = [], [], [], []
    for number in range(mantissas.shape[1]):
        for slot in listed:
            place, size = number * padded, min(group, elements - number * group)
            exponent = int(exponents[slot, number])
            start = slot * STRIDE + number * group
            groups.append({"slot": slot, "start": start, "place": place, "number": number, "size": size, "exponent": exponent})
            whole = np.zeros(padded, np.int64)
            whole[:group] = mantissas[slot, number].astype(np.int64)
            first = INNER if target is AlignTarget.INNER else 0
            for k in range(0, padded, LANES):
                writes.append((slot, first + place + k, k, exponent, whole[k : k + LANES].tolist()))
            where += [index(ALIGNED, slot, place + np.arange(padded)), index(ALIGNED + 1, slot, [number])]
            values += [whole.astype(np.int32).view(np.uint32), [exponent]]
    if target is AlignTarget.RESIDUAL:
        where += [index(ALIGNED + 2, slot, [0]) for slot in listed]
        values += [[expected_rms[slot]] for slot in listed]
    dut = Aligner(MACHINE)
    times: list[int] = []

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        """In place of the tracker: counts the groups, answers the flush."""
        seen, times[:], ends, end, taken, cycle, done = [], [], [], None, 0, -1, 0
        while not done:
            sampled = await ctx.tick().sample(
                dut.write_slot,
                dut.write_element,
                dut.write_offset,
                dut.write_exponent,
                dut.write_data,
                dut.write_enable,
                dut.head_slot,
                dut.head_end,
                dut.completed.groups.valid & dut.completed.groups.ready,
                dut.completed.flush,
                dut.busy,
                dut.done,
                dut.digest,
            )
            *write, data, enable, head_slot, head_end, group_taken, flush, busy, done, digest = sampled[2:]
            cycle += 1
            assert cycle < 1000
            if enable:
                seen.append((*write, unpacked(data, LANES, 18, signed=True)))
                times.append(cycle)
            if head_end:
                ends.append((cycle + Aligner.WRITE, head_slot))
            taken += group_taken
            if taken == len(groups):
                ctx.set(dut.completed.empty, 1)
                # Whoever writes says so at any time after the last write.
                ctx.set(dut.finish, not stalls or stalls.random() < 0.1 or flush)
            if flush and ctx.get(dut.completed.flushed) and not busy and end is None:
                end = cycle
            ctx.set(dut.completed.flushed, flush)
        assert seen == writes
        last_words = [k for k, write in enumerate(writes) if write[2] == padded - LANES]
        assert ends == [(times[k], writes[k][0]) for k in last_words]
        assert digest == signature(np.concatenate(where), np.concatenate(values))
        rounds = InverseRms.LATENCY + TOKENS if target is AlignTarget.RESIDUAL else 0
        assert end is not None
        assert cycle == end + aligned(MACHINE, target is AlignTarget.RESIDUAL) + Signature.LATENCY + 2 + rounds
        if target is AlignTarget.RESIDUAL:
            results = unpacked(ctx.get(dut.inverse_rms), TOKENS)
            assert [results[slot] for slot in listed] == [int(expected_rms[slot]) for slot in listed]
        ctx.set(dut.finish, 0)

    run = exercise(
        dut,
        {dut.completed.groups: groups},
        {},
        constants=[
            (dut.target, target),
            (dut.mask, sum(1 << slot for slot in listed)),
            (dut.padded, padded),
            (dut.inner, INNER),
            (dut.inverse_size, int(fp32.bits(INVERSE))),
            (dut.epsilon, int(fp32.bits(EPSILON))),
        ],
        drive=drive,
        beside=buffer(dut.read, contents, LANES),
        seeds=range(2),
    )
    taken = run.taken[dut.completed.groups]
    words = padded // LANES
    period = max(words, 4) if target is AlignTarget.RESIDUAL else words  # as long as a square sum is added, at least
    assert taken == [taken[0] + k * period for k in range(len(groups))]
    assert times == [taken[0] + Aligner.WRITE + 1 + k // words * period + k % words for k in range(len(writes))]


@pytest.mark.parametrize(("exponent", "beyond"), [(150, False), (254, True)])
def test_squares_beyond_fp32_are_reported(exponent: int, beyond: bool) -> None:
    dut, seen = Aligner(MACHINE), list[int]()

    async def bench(ctx: SimulatorContext) -> None:
        for port, value in (
            (dut.target, AlignTarget.RESIDUAL),
            (dut.mask, 1),
            (dut.padded, 32),
            (dut.inverse_size, int(fp32.bits(INVERSE))),
            (dut.epsilon, int(fp32.bits(EPSILON))),
            (dut.read.data, packed(LANES * [exponent << 23])),
            (dut.completed.groups.payload, {"size": 32, "exponent": exponent}),
            (dut.completed.groups.valid, 1),
            (dut.completed.empty, 1),
            (dut.completed.flushed, 1),
        ):
            ctx.set(port, value)
        await ctx.tick()
        ctx.set(dut.completed.groups.valid, 0)
        ctx.set(dut.finish, 1)
        while not ctx.get(dut.done):
            seen.append(ctx.get(dut.saturated))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert any(seen) == beyond
