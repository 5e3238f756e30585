"""Rounds of probabilities ahead of those of values: their steps, and how far ahead they are."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.softmax import SoftmaxWalk
from skipopu.layout import KvEntry
from skipopu.machine import pipeline
from skipopu.machine.config import ENTRIES_HELD, QUERY_LANES, Machine
from tests.hw.kv.support import LARGEST, set_heads, simulate
from tests.hw.kv.test_walk import random_blocks

MACHINE = Machine.load("trio")
ENTRY, ROUNDS, WRITTEN = KvEntry(3, 16, MACHINE), 5, 6  # WRITTEN: cycles from a head's last step until memory has it


@pytest.mark.parametrize("serial", [False, True])
@pytest.mark.parametrize("stalls", [True, False])
@pytest.mark.parametrize("ports", [1, MACHINE.ports])
def test_rounds(ports: int, stalls: bool, serial: bool) -> None:
    """Of entries of which one port has one more than the others. A port counts one less when it is told that an entry's probabilities are
    made, has settled at once or later which is next, and says a cycle late whether there is one.
    """
    machine = dataclasses.replace(MACHINE, ports=ports)
    dut, rng, late = SoftmaxWalk(machine), np.random.default_rng(0), pipeline.told(machine)
    blocks = random_blocks(rng, 3)
    expected = [
        (q, head * len(blocks) + k, head * len(blocks))
        for head in range(ENTRY.kv_heads)
        for k, block in enumerate(blocks)
        for q in range(QUERY_LANES)
        if block["lanes"] >> q & 1
    ]
    per_head = len(expected) // ENTRY.kv_heads

    def bits(flags: Sequence[bool]) -> int:
        return sum(flag << p for p, flag in enumerate(flags))

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, ENTRY)
        ctx.set(dut.serial, serial)
        ctx.set(dut.listed.count, len(blocks))
        for k, block in enumerate(blocks):
            ctx.set(dut.listed.blocks[k], block)
        entries = [ROUNDS - (p != min(1, ports - 1)) for p in range(ports)]
        left, chosen = [True] * ports, [False] * ports
        ctx.set(dut.left, bits(left))
        for _ in range(2):
            await ctx.tick()
        ctx.set(dut.values, 1)
        seen: list[tuple[int, int, int]] = []
        starts: list[int] = []
        coming, cycle, heads_used, written, made, settled, active, furthest = [0] * WRITTEN, 0, 0, 0, 0, False, 0, 0
        own = [(True, 0)]  # by cycle, the last one before the first: whether the walk was between rounds, at a head's last step
        while heads_used < ROUNDS * ENTRY.kv_heads:
            chosen = [n > 0 and (was or not stalls or rng.random() < 0.1) for n, was in zip(entries, chosen, strict=True)]
            ctx.set(dut.left, bits(left))
            ctx.set(dut.chosen, bits(chosen))
            ctx.set(dut.written, coming.pop(0))
            assert ctx.get(dut.weighed) == (written > heads_used)
            # Values use a head when they may.
            use = written > heads_used and (not stalls or rng.random() < 0.05)
            ctx.set(dut.head_end, use)
            ctx.set(dut.round_end, use and heads_used % ENTRY.kv_heads == ENTRY.kv_heads - 1)
            idle, head_weighed = bool(ctx.get(dut.idle)), ctx.get(dut.head_weighed)
            if not idle:
                assert settled or not own[-1][0]
                ahead = made // ENTRY.kv_heads - heads_used // ENTRY.kv_heads
                assert ahead <= (0 if serial else 1)
                furthest = max(furthest, ahead)
            own.append((idle, head_weighed))
            settled = any(left) and not any(some and not which for some, which in zip(left, chosen, strict=True))
            # What the ports are told
            was_idle, was_weighed = own[-1 - late]
            step, rounds, left = ctx.get(dut.round.step), len(seen) // len(expected), [n > 0 for n in entries]
            assert step.work == (not was_idle)
            if step.work:
                if len(seen) % len(expected) == 0:
                    starts.append(cycle)
                    active = bits(left)
                seen.append((step.lane, step.number, step.number_first))
                assert step.parity == rounds % 2
                assert ctx.get(dut.round.first) == (rounds == 0)
                if step.entry_end:
                    entries, chosen = [max(n - 1, 0) for n in entries], [False] * ports
            assert ctx.get(dut.active) == active
            assert step.entry_end == (step.work and len(seen) % len(expected) == 0)
            assert was_weighed == (step.work and len(seen) % per_head == 0)
            coming.append(head_weighed)
            written += ctx.get(dut.written)
            made += head_weighed
            heads_used += use
            await ctx.tick()
            cycle += 1
        assert seen == expected * ROUNDS
        assert furthest == (0 if serial else 1)
        if not stalls:
            assert starts[0] == 1 + 2 * late
        if not stalls and not serial:
            gaps = [after - before - len(expected) for before, after in itertools.pairwise(starts)]
            assert gaps == [1 + 2 * late] * (ROUNDS - 2) + [1 + 2 * late + (ports > 1)]

    simulate(dut, bench)


@pytest.mark.parametrize("together", [0, 1, 2])
def test_rounds_of_entries_that_go_together(together: int) -> None:
    """Of two rounds of values probabilities are under way at most, each with its own number."""
    machine = Machine.load("tiny-masks")
    dut, rng, entry, most = (
        SoftmaxWalk(machine),
        np.random.default_rng(together),
        KvEntry(2, machine.kv_lanes, machine),
        2 << together,
    )
    blocks = random_blocks(rng, 1, machine)
    lanes = [q for q in range(QUERY_LANES) if blocks[0]["lanes"] >> q & 1]
    every = (1 << machine.ports) - 1

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, entry)
        ctx.set(dut.together, together)
        ctx.set(dut.listed.count, 1)
        ctx.set(dut.listed.blocks[0], blocks[0])
        await ctx.tick()
        for port in (dut.left, dut.chosen):
            ctx.set(port, every)
        ctx.set(dut.values, 1)
        begun = ended = 0
        steps: list[tuple[int, int, int]] = []
        for _ in range(30 * most):
            ctx.set(dut.ended, 0)
            step = ctx.get(dut.round.step)
            if step.work:
                assert ctx.get(dut.round.first) == (begun == 0)
                steps.append((step.lane, step.number, step.parity))
                if step.entry_end:
                    assert steps == [(q, head, begun % ENTRIES_HELD) for head in range(entry.kv_heads) for q in lanes]
                    steps, begun = [], begun + 1
            if begun - ended == most and rng.random() < 0.2:
                count = min(1 << together, int(rng.integers(1, 5)))
                ctx.set(dut.ended, count)
                ended += count
            assert begun - ended <= most
            await ctx.tick()
        assert ended > most

    simulate(dut, bench)


def test_the_most_heads_ahead() -> None:
    """Probabilities of two rounds of the most heads wait for values that use none, then each is used once."""
    dut, entry = SoftmaxWalk(LARGEST), KvEntry(64, LARGEST.kv_lanes, LARGEST)
    ahead = 2 * entry.kv_heads

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, entry)
        ctx.set(dut.listed.count, 1)
        ctx.set(dut.listed.blocks[0], {"lanes": 1})
        await ctx.tick()
        for port in (dut.left, dut.chosen, dut.values):
            ctx.set(port, 1)
        made = 0
        for _ in range(2 * ahead):
            weighed = ctx.get(dut.head_weighed)
            ctx.set(dut.written, weighed)
            made += weighed
            await ctx.tick()
            assert ctx.get(dut.weighed) == (made > 0)
        assert made == ahead
        ctx.set(dut.left, 0)
        ctx.set(dut.head_end, 1)
        for used in range(1, ahead + 1):
            await ctx.tick()
            assert ctx.get(dut.weighed) == (used < ahead)

    simulate(dut, bench)
