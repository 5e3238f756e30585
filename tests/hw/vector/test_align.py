"""ALIGN: the listed slots' words in order, each a cycle after its read, a word per cycle."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.vector.align import AlignUnit
from skipopu.isa.spec import ALIGN, BUFFER_UNIT
from skipopu.machine.accepted import LARGEST_BUFFER
from skipopu.machine.config import Machine
from tests.hw.bench import exercise
from tests.hw.vector.support import buffer, packed

LANES, TOKENS, ELEMENTS, STRIDE = 4, 3, 22, 24
SRC = LARGEST_BUFFER - 2 * STRIDE  # the last slot's is seen to lie beyond
MACHINE = dataclasses.replace(Machine.load("tiny"), tokens=TOKENS, vector_lanes=LANES)


@pytest.mark.parametrize("mask", [0b111, 0b010, 0b101])
def test_words(mask: int) -> None:
    contents = np.random.default_rng(mask).integers(0, 2**32, SRC + 256, dtype=np.uint32)
    listed = [slot for slot in range(TOKENS) if mask >> slot & 1]
    words = [
        {
            "slot": slot,
            "address": SRC + slot * STRIDE + first,
            "data": packed(contents[SRC + slot * STRIDE + first :][:LANES]),
            "enable": (1 << min(LANES, ELEMENTS - first)) - 1,
        }
        for slot in listed
        for first in range(0, ELEMENTS, LANES)
    ]
    dut = AlignUnit(MACHINE)
    word = ALIGN.encode({"src": SRC // BUFFER_UNIT, "stride": STRIDE // BUFFER_UNIT, "elements": ELEMENTS})

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.task.instruction, {"word": word, "mask": mask})
        for _ in range(2):
            ctx.set(dut.task.active, 1)
            seen, times, reads, cycle, finish = [], [], [], -1, 0
            while not finish:
                paused = bool(stalls and stalls.random() < 0.4)
                ctx.set(dut.pause, paused)
                ports = (dut.finish, dut.read.enable, dut.task.working, dut.write_valid)
                _, _, *fields, finish, reads_now, working, valid = await ctx.tick().sample(
                    *(getattr(dut.write, name) for name in words[0]), *ports
                )
                cycle += 1
                assert cycle < 200
                assert working == reads_now
                if reads_now:
                    assert not paused
                    reads.append(cycle)
                if valid:
                    seen.append(dict(zip(words[0], fields, strict=True)))
                    times.append(cycle)
            assert seen == words
            assert times == [read + 1 for read in reads]
            if not stalls:
                per_slot = -(-ELEMENTS // LANES)
                starts = [2 + 2 * slot + per_slot * k for k, slot in enumerate(listed)]
                assert reads == [start + k for start in starts for k in range(per_slot)]
                assert cycle == reads[-1] + 3 + 2 * (TOKENS - 1 - listed[-1])
            assert not ctx.get(dut.task.done)
            ctx.set(dut.aligned, 1)
            assert ctx.get(dut.task.done)
            assert ctx.get(dut.task.digest) == 0
            await ctx.tick()
            ctx.set(dut.aligned, 0)
            ctx.set(dut.task.active, 0)
            await ctx.tick().repeat(2)
            assert not ctx.get(dut.finish)

    exercise(dut, {}, {}, drive=drive, beside=buffer(dut.read, contents, LANES))


def test_the_longest_vector() -> None:
    """As many words as an instruction can say, of the widest unit."""
    elements = (1 << ALIGN.by_name["elements"].width) - 1
    machine = dataclasses.replace(Machine.load("tiny"), tokens=1, port_bits=512, vector_lanes=32, buffer=LARGEST_BUFFER)
    dut = AlignUnit(machine)

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.task.instruction, {"word": ALIGN.encode({"elements": elements}), "mask": 1})
        ctx.set(dut.task.active, 1)
        await ctx.tick().repeat(2)
        await ctx.tick().repeat(elements // 32)
        assert (ctx.get(dut.read.enable), ctx.get(dut.read.address)) == (1, elements // 32 * 32)
        await ctx.tick()
        assert (ctx.get(dut.read.enable), ctx.get(dut.write.enable)) == (0, (1 << elements % 32) - 1)

    exercise(dut, {}, {}, drive=drive, seeds=(), patience=elements)
