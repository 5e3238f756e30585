"""Groups and aligner beside the buffer's writes: slots in any turn, partial groups, padding, against the numerics."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import connect
from amaranth.sim import Simulator

from hw.memory.buffer import Buffer
from hw.vector.aligner import Aligner
from hw.vector.groups import GroupTracker
from skipopu.isa.spec import AlignTarget
from skipopu.machine.config import Machine
from skipopu.numerics import align, fp32

TOKENS, LANES = 3, 4
MACHINE = dataclasses.replace(Machine.load("tiny"), tokens=TOKENS, vector_lanes=LANES, buffer=1024)
INVERSE, EPSILON, INNER = np.float32(1 / 40), np.float32(1e-5), 64


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("target", "group", "padded"), [(1, 32, 32), (2, 32, 32), (3, 12, 16)])
def test_groups_as_they_are_written(seed: int, target: int, group: int, padded: int) -> None:
    rng = np.random.default_rng(seed)
    elements = int(rng.integers(1, 4 * group)) if target != AlignTarget.QUERY else group * int(rng.integers(1, 5))
    listed = [s for s in range(TOKENS) if rng.random() < 0.7] or [0]
    x = (rng.standard_normal((TOKENS, elements)) * 10.0 ** rng.integers(-6, 6, (TOKENS, elements))).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = 0
    mantissas, exponents = align.align(x, group)
    expected_rms = align.inverse_rms(mantissas, exponents, INVERSE, EPSILON)

    m, begin = Module(), Signal(init=1)
    m.submodules.buffer = buffer = Buffer(MACHINE)
    m.submodules.groups = groups = GroupTracker(MACHINE)
    m.submodules.align = aligner = Aligner(MACHINE)
    m.d.comb += [
        groups.write_valid.eq(buffer.written_valid),
        groups.write.eq(buffer.written),
        groups.group.eq(group),
        groups.padded.eq(padded),
        groups.clear.eq(aligner.clear | begin),
        aligner.padded.eq(padded),
        aligner.target.eq(target),
        aligner.mask.eq(sum(1 << s for s in listed)),
        aligner.inner.eq(INNER),
        aligner.inverse_size.eq(int(fp32.bits(INVERSE))),
        aligner.epsilon.eq(int(fp32.bits(EPSILON))),
    ]
    connect(m, groups.completed, aligner.completed)
    connect(m, aligner.read, buffer.reads[2])
    # Words in each slot's order, slots in random turns.
    words = {s: list(range(0, elements, LANES)) for s in listed}
    turns = rng.permutation([s for s in listed for _ in words[s]])
    seen: dict[int, list[tuple[int, int, list[int], int]]] = {s: [] for s in range(TOKENS)}
    rms: list[int] = []

    async def write(ctx) -> None:
        await ctx.tick()
        ctx.set(begin, 0)
        for slot in turns:
            first = words[slot].pop(0)
            while ctx.get(groups.pause):
                ctx.set(buffer.vector.valid, 0)
                await ctx.tick()
            lanes = x[slot, first : first + LANES]
            ctx.set(buffer.vector.valid, 1)
            ctx.set(buffer.vector.payload.address, 256 * int(slot) + first)
            ctx.set(buffer.vector.payload.slot, int(slot))
            ctx.set(buffer.vector.payload.enable, (1 << len(lanes)) - 1)
            ctx.set(buffer.vector.payload.data, sum(int(b) << 32 * k for k, b in enumerate(fp32.bits(lanes))))
            await ctx.tick()
        ctx.set(buffer.vector.valid, 0)
        await ctx.tick()
        ctx.set(aligner.finish, 1)
        await ctx.tick().until(aligner.done)
        packed = ctx.get(aligner.inverse_rms)
        rms.extend(packed >> 32 * s & 0xFFFF_FFFF for s in range(TOKENS))

    async def watch(ctx) -> None:
        async for _, _, valid, slot, element, offset, data, exponent in ctx.tick().sample(
            aligner.write_enable,
            aligner.write_slot,
            aligner.write_element,
            aligner.write_offset,
            aligner.write_data,
            aligner.write_exponent,
        ):
            if valid:
                lanes = [data >> 18 * k & 0x3FFFF for k in range(LANES)]
                seen[slot].append((element, offset, [v - (v >> 17 << 18) for v in lanes], exponent))

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(write)
    simulator.add_testbench(watch, background=True)
    simulator.run()

    first = INNER if target == AlignTarget.INNER else 0
    for slot in range(TOKENS):
        if slot not in listed:
            assert not seen[slot]
            continue
        whole = np.zeros((mantissas.shape[1], padded), np.int64)
        whole[:, :group] = mantissas[slot].astype(np.int64)
        flat = np.concatenate([values for _, _, values, _ in seen[slot]])
        assert (flat == whole.reshape(-1)).all()
        assert [e for e, *_ in seen[slot]] == list(range(first, first + whole.size, LANES))
        assert [o for _, o, *_ in seen[slot]] == list(range(0, padded, LANES)) * len(whole)
        assert [e for *_, e in seen[slot]] == np.repeat(exponents[slot], padded // LANES).tolist()
        if target == AlignTarget.RESIDUAL:
            assert rms[slot] == int(fp32.bits(expected_rms[slot]))
