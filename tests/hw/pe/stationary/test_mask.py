"""Active channels of a product against the rule's numbers, whatever the thresholds' pauses."""

from __future__ import annotations

import dataclasses
from collections import deque

import numpy as np
import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.pe.stationary.mask import MaskUnit
from hw.pe.stationary.operands import word_lanes
from skipopu.isa.spec import MATMUL
from skipopu.machine.config import Machine
from skipopu.numerics import fp32, mask
from tests.hw.vector.support import packed

MACHINE = dataclasses.replace(Machine.load("tiny-masks"), ports=2, tokens=3)
GROUPS, GROUP, LISTED, INNER = 3, 32, (0, 2), 64


@pytest.mark.parametrize(("norm", "source"), [(0, 0), (1, 0), (0, 1)])
def test_channels_of_listed_slots(norm: int, source: int) -> None:
    """Each slot's, and those that any has; a group's thresholds come from the ports in turn. They stand for a product with the same mask, which counts
    them too."""
    dut, rng, vector, lanes = MaskUnit(MACHINE), np.random.default_rng(norm), MACHINE.vector_lanes, word_lanes(MACHINE)
    first, elements = INNER * source, GROUPS * GROUP
    keys = rng.integers(0, 1 << mask.KEY_BITS, (MACHINE.tokens, INNER + elements))
    roots = rng.uniform(0.1, 9, MACHINE.tokens).astype(np.float32)
    scales = mask.key(roots) if norm else np.full(MACHINE.tokens, mask.ONE)
    sums = keys[:, first : first + elements] + scales[:, None]
    thresholds = sums[rng.integers(MACHINE.tokens, size=elements), range(elements)] + rng.integers(-1, 2, elements)
    active = (sums >= thresholds) & np.isin(range(MACHINE.tokens), LISTED)[:, None]
    beats: list[deque[int]] = [deque() for _ in dut.thresholds]
    for group, own in enumerate(thresholds.reshape(GROUPS, -1, MACHINE.kv_lanes)):
        beats[group % MACHINE.mask_ports].extend(packed(beat, mask.THRESHOLD_BITS) for beat in own)
    word = MATMUL.encode({"groups": GROUPS, "norm": norm, "source": source})

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.write_enable, 1)
        for slot, element in np.ndindex(MACHINE.tokens, keys.shape[1] // vector):
            ctx.set(dut.write_slot, slot)
            ctx.set(dut.write_element, element * vector)
            ctx.set(dut.write_keys, packed(keys[slot, element * vector :][:vector], mask.KEY_BITS))
            await ctx.tick()
        ctx.set(dut.write_enable, 0)
        ctx.set(dut.instruction, {"word": word, "mask": sum(1 << slot for slot in LISTED), "masked": 1})
        ctx.set(dut.group, GROUP)
        ctx.set(dut.inner, INNER)
        ctx.set(dut.inverse_rms, packed(fp32.bits(roots)))
        ctx.set(dut.begin, 1)
        await ctx.tick()
        ctx.set(dut.begin, 0)
        cycles = 0
        there = [0 for _ in beats]  # beats that came
        read = left_out = 0
        while not ctx.get(dut.done):
            # Beats that came stay until they are taken.
            ctx.set(dut.ready, sum((count > 0) << p for p, count in enumerate(there)))
            ctx.set(dut.behind, sum((count > 1) << p for p, count in enumerate(there)))
            for port, own, count in zip(dut.thresholds, beats, there, strict=True):
                ctx.set(port, own[0] if count else int(rng.integers(1 << 32)))
            taken = ctx.get(dut.taken)
            read, left_out = read + ctx.get(dut.channels_read), left_out + ctx.get(dut.channels_left_out)
            await ctx.tick()
            for p, own in enumerate(beats):
                if taken >> p & 1:
                    assert there[p]
                    own.popleft()
                there[p] += (there[p] < len(own) + (taken >> p & 1) and rng.random() < 0.4) - (taken >> p & 1)
            cycles += 1
            assert cycles < 1000
        assert not any(beats)
        assert (read, left_out) == (active.any(0).sum(), elements - active.any(0).sum())
        ctx.set(dut.instruction, {"word": word, "mask": sum(1 << slot for slot in LISTED), "masked": 1, "again": 1})
        ctx.set(dut.begin, 1)
        assert not ctx.get(dut.started)
        assert (ctx.get(dut.channels_read), ctx.get(dut.channels_left_out)) == (read, left_out)
        await ctx.tick()
        ctx.set(dut.begin, 0)
        for _ in range(8):
            assert ctx.get(dut.done)
            assert not ctx.get(dut.channels_read)
            await ctx.tick()
        for number in range(elements // lanes):
            part = slice(number * lanes, (number + 1) * lanes)
            ctx.set(dut.read_word, first // lanes + number)
            for slot, port in zip(LISTED, dut.read_slots, strict=True):
                ctx.set(port, slot)
            for reader in dut.active_words:
                ctx.set(reader.address, first // lanes + number)
                assert ctx.get(reader.word) == packed(active[:, part].any(0), 1)
            await ctx.tick()
            assert [ctx.get(masks) for masks in dut.masks] == [packed(active[slot, part], 1) for slot in LISTED]

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
