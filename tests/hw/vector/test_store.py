"""STORE: runs, beats and strobes of the listed slots, two cycles an element and one a beat."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.vector.store import StoreUnit
from skipopu.isa.spec import BUFFER_UNIT, STORE
from skipopu.machine.accepted import LARGEST_BUFFER
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_CONTEXT
from skipopu.machine.pipeline import SIGNATURE
from skipopu.numerics.signature import index, signature
from tests.hw.bench import exercise
from tests.hw.vector.support import buffer, packed

LANES, TOKENS, STRIDE, ROW = 4, 3, 40, 3
SRC, ADDRESS, POSITION = LARGEST_BUFFER - 2 * STRIDE, (1 << 27) + 1000, LARGEST_CONTEXT - TOKENS  # to overrun, above 4 GB


@pytest.mark.parametrize(("bits", "elements", "mask"), [(128, 9, 0b101), (64, 8, 0b111), (512, 35, 0b010)])
def test_vectors(bits: int, elements: int, mask: int) -> None:
    machine = dataclasses.replace(Machine.load("tiny"), tokens=TOKENS, vector_lanes=LANES, port_bits=bits)
    contents = np.random.default_rng(bits).integers(0, 2**32, SRC + 256, dtype=np.uint32)
    per_beat, listed = bits // 32, [slot for slot in range(TOKENS) if mask >> slot & 1]
    runs, beats, where, values = [], [], [], []
    for slot in listed:
        vector = contents[SRC + slot * STRIDE :][:elements]
        address = (ADDRESS + (POSITION + slot) * ROW) * 64
        runs.append({"beat": address // machine.beat_bytes, "count": -(-elements // per_beat)})
        for first in range(0, elements, per_beat):
            piece = vector[first : first + per_beat]
            beats.append((packed(piece), (1 << 4 * len(piece)) - 1))
        where.append(index(0, slot, np.arange(elements)))
        values.append(vector)
    dut = StoreUnit(machine)
    word = STORE.encode({"src": SRC // BUFFER_UNIT, "stride": STRIDE // BUFFER_UNIT, "elements": elements, "row": ROW})
    instruction = {"word": word, "mask": mask, "address": ADDRESS, "position": POSITION}
    taken: list[int] = []

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        """Takes the beats itself: bytes without a strobe may be anything."""
        ctx.set(dut.task.instruction, instruction)
        ctx.set(dut.task.active, 1)
        seen, taken[:] = [], []
        cycle, done = 0, None
        while done is None:
            assert cycle < 1500
            ready = stalls.random() < 0.5 if stalls else 1
            ctx.set(dut.beats.ready, ready)
            written = stalls.random() < 0.1 if stalls else 1
            ctx.set(dut.written, written)
            if ctx.get(dut.beats.valid) and ready:
                data, strobe = ctx.get(dut.beats.payload.data), ctx.get(dut.beats.payload.strobe)
                kept = sum(0xFF << 8 * k for k in range(bits // 8) if strobe >> k & 1)
                seen.append((data & kept, strobe))
                taken.append(cycle)
            if ctx.get(dut.task.done):
                assert ctx.get(dut.task.digest) == signature(np.concatenate(where), np.concatenate(values))
                done = cycle
            await ctx.tick()
            cycle += 1
        ctx.set(dut.task.active, 0)
        assert seen == beats
        if not stalls:
            # written, which stands here, is seen in the cycle after a slot's last beat.
            assert done == taken[-1] + 3 + SIGNATURE + 3 * (TOKENS - 1 - listed[-1])

    run = exercise(dut, {}, {dut.runs: runs}, drive=drive, beside=buffer(dut.read, contents, LANES))
    given = run.given[dut.runs]
    assert given[0] == 2 + 3 * listed[0]
    first = taken[: -(-elements // per_beat)]
    ends = [min(elements, (k + 1) * per_beat) for k in range(len(first))]
    assert first == [given[0] + 2 * end + k + 1 for k, end in enumerate(ends)]
