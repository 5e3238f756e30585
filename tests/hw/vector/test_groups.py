"""Groups as their last elements are written: slots in turns, partial words, last groups, against a plain model."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.vector.groups import GroupTracker
from skipopu.isa.spec import MATMUL
from skipopu.machine.accepted import LARGEST_BUFFER
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_GROUP
from skipopu.machine.pipeline import TRACKED
from tests.hw.bench import exercise
from tests.hw.vector.support import packed, pause

LANES, TOKENS = 4, 3
MACHINE = dataclasses.replace(Machine.load("tiny"), tokens=TOKENS, vector_lanes=LANES)


def group_of(slot: int, number: int, start: int, exponents: np.ndarray, padded: int) -> dict[str, int]:
    size, most = len(exponents), max(1, int(exponents.max()))
    return {"slot": slot, "start": start, "place": number * padded, "number": number, "size": size, "exponent": most}


@pytest.mark.parametrize(("group", "padded", "elements"), [(8, 8, 29), (12, 16, 36)])
def test_groups(group: int, padded: int, elements: int) -> None:
    rng = np.random.default_rng(group)
    patterns = rng.integers(0, 2**32, (TOKENS, elements), dtype=np.uint32)
    patterns[1, :group] &= 0x807FFFFF  # a group of zeros
    exponents = (patterns >> 23 & 255).astype(int)
    turns = rng.permutation(np.repeat(np.arange(TOKENS), -(-elements // LANES)))
    # (write, whether it completes a group), and the groups in the order of their last writes, then what is left of the slots
    place, writes, groups = [0] * TOKENS, [], []
    base = [256 * slot for slot in range(TOKENS)]
    for slot in map(int, turns):
        first, place[slot] = place[slot], place[slot] + LANES
        lanes = patterns[slot, first : first + LANES]
        number, end = first // group, min(place[slot], elements)
        complete = end == (number + 1) * group
        # Any element of the word may stand for it; lanes without an element hold anything.
        word = {
            "slot": slot,
            "address": base[slot] + first + int(rng.integers(LANES)),
            "enable": (1 << len(lanes)) - 1,
            "data": packed(lanes) | 0xFF << 23 + 96 if len(lanes) < LANES else packed(lanes),
        }
        writes.append((word, complete))
        if complete:
            groups.append(group_of(slot, number, base[slot] + number * group, exponents[slot, number * group : end], padded))
    for slot in range(TOKENS if elements % group else 0):
        number = elements // group
        groups.append(group_of(slot, number, base[slot] + number * group, exponents[slot, number * group :], padded))
    dut = GroupTracker(MACHINE)
    completed: list[int] = []
    flushing: list[int] = []

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        cycle = 1
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        for word, complete in writes:
            cycle += await pause(ctx, stalls)
            ctx.set(dut.write, word)
            ctx.set(dut.write_valid, 1)
            if complete and stalls is None:
                completed.append(cycle)
            await ctx.tick()
            ctx.set(dut.write_valid, 0)
            cycle += 1
        await ctx.tick()
        ctx.set(dut.completed.flush, 1)
        for cycles in range(20):
            await ctx.tick()
            if ctx.get(dut.completed.flushed):
                flushing.append(cycles + 1)
                break
        ctx.set(dut.completed.flush, 0)
        await ctx.tick()
        assert not ctx.get(dut.completed.flushed)
        await ctx.tick().until(dut.completed.empty)

    run = exercise(
        dut,
        {},
        {dut.completed.groups: groups},
        constants=[(dut.group, group), (dut.padded, padded)],
        drive=drive,
        seeds=range(2),
    )
    assert set(flushing) == {TOKENS - 2 + TRACKED}
    assert run.given[dut.completed.groups][: len(completed)] == [cycle + TRACKED for cycle in completed]


def test_pause_before_the_queue_is_full() -> None:
    """Whoever looks at ``pause`` before each write loses nothing, however slow the aligner is."""
    dut = GroupTracker(MACHINE)
    words = 2 * dut.depth
    expected = [{"slot": 0, "number": k, "size": LANES} for k in range(words)]
    paused: list[int] = []

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        number = 0
        while number < words:
            pause = ctx.get(dut.pause)
            if not pause:
                ctx.set(dut.write, {"slot": 0, "address": LANES * number, "enable": 15, "data": packed([1 << 23] * LANES)})
            number += not pause
            paused.append(pause)
            ctx.set(dut.write_valid, not pause)
            await ctx.tick()
        ctx.set(dut.write_valid, 0)

    # Of this seed, groups are taken in one cycle out of ten.
    exercise(
        dut, {}, {dut.completed.groups: expected}, constants=[(dut.group, LANES), (dut.padded, LANES)], drive=drive, seeds=(0,)
    )
    assert any(paused)


def test_the_most_groups_at_the_end_of_the_memories() -> None:
    """As many as an input has, each as far from the next as can be; the vector ends with the largest buffer."""
    dut, most = GroupTracker(dataclasses.replace(MACHINE, tokens=1)), (1 << MATMUL.by_name["groups"].width) - 1
    first = LARGEST_BUFFER - LANES * most
    groups = [{"number": k, "place": k * LARGEST_GROUP, "start": first + LANES * k, "size": LANES} for k in range(most)]

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        ctx.set(dut.write_valid, 1)
        for number in range(most):
            ctx.set(dut.write, {"address": first + LANES * number, "enable": 15})
            await ctx.tick()
        ctx.set(dut.write_valid, 0)

    constants = [(dut.group, LANES), (dut.padded, LARGEST_GROUP)]
    exercise(dut, {}, {dut.completed.groups: groups}, constants=constants, drive=drive, seeds=())


def test_the_largest_group() -> None:
    dut = GroupTracker(dataclasses.replace(MACHINE, tokens=1))
    words = LARGEST_GROUP // LANES

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        ctx.set(dut.write_valid, 1)
        ctx.set(dut.write.enable, 15)
        for number in range(2 * words):
            ctx.set(dut.write.address, LANES * number)
            await ctx.tick()
        ctx.set(dut.write_valid, 0)

    groups = [{"number": k, "start": k * LARGEST_GROUP, "size": LARGEST_GROUP} for k in range(2)]
    constants = [(dut.group, LARGEST_GROUP), (dut.padded, LARGEST_GROUP)]
    exercise(dut, {}, {dut.completed.groups: groups}, constants=constants, drive=drive, seeds=())
