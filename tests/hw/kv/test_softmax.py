"""Rounds of probabilities ahead of those of values: their steps, and how far ahead they are."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.softmax import SoftmaxWalk
from skipopu.layout import KvEntry
from skipopu.machine.config import ENTRIES_HELD, QUERY_LANES, Machine
from tests.hw.kv.support import LARGEST, set_heads, simulate
from tests.hw.kv.test_walk import random_blocks

MACHINE = Machine.load("trio")
ENTRY, ROUNDS, WRITTEN = KvEntry(3, 16, MACHINE), 5, 6  # WRITTEN: cycles from a head's last step until memory has it


@pytest.mark.parametrize("serial", [False, True])
@pytest.mark.parametrize("stalls", [True, False])
def test_rounds(serial: bool, stalls: bool) -> None:
    dut, rng = SoftmaxWalk(MACHINE), np.random.default_rng(0)
    blocks = random_blocks(rng, 3)
    expected = [
        (q, head * len(blocks) + k, head * len(blocks))
        for head in range(ENTRY.kv_heads)
        for k, block in enumerate(blocks)
        for q in range(QUERY_LANES)
        if block["lanes"] >> q & 1
    ]
    per_head = len(expected) // ENTRY.kv_heads

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, ENTRY)
        ctx.set(dut.serial, serial)
        ctx.set(dut.listed.count, len(blocks))
        for k, block in enumerate(blocks):
            ctx.set(dut.listed.blocks[k], block)
        await ctx.tick()
        ctx.set(dut.values, 1)
        seen: list[tuple[int, int, int]] = []
        starts: list[int] = []
        coming, cycle, heads_used, written, made, before, furthest = [0] * WRITTEN, 0, 0, 0, 0, False, 0
        while heads_used < ROUNDS * ENTRY.kv_heads:
            rounds = len(seen) // len(expected)
            active = (1 << MACHINE.ports) - 1 if rounds < ROUNDS - 1 else 0b10
            ctx.set(dut.left, active if rounds < ROUNDS else 0)
            ctx.set(dut.chosen, active if not stalls or rng.random() < 0.3 else 0)
            ctx.set(dut.written, coming.pop(0))
            assert ctx.get(dut.weighed) == (written > heads_used)
            # Values use a head when they may.
            use = written > heads_used and (not stalls or rng.random() < 0.05)
            ctx.set(dut.head_end, use)
            ctx.set(dut.round_end, use and heads_used % ENTRY.kv_heads == ENTRY.kv_heads - 1)
            step = ctx.get(dut.round.step)
            if step.work:
                if not before:
                    starts.append(cycle)
                seen.append((step.lane, step.number, step.number_first))
                assert ctx.get(dut.active) == active
                assert step.parity == rounds % 2
                assert ctx.get(dut.round.first) == (rounds == 0)
                assert step.entry_end == (len(seen) % len(expected) == 0)
                ahead = rounds - heads_used // ENTRY.kv_heads
                assert ahead <= (0 if serial else 1)
                furthest = max(furthest, ahead)
            assert ctx.get(dut.head_weighed) == (step.work and len(seen) % per_head == 0)
            assert ctx.get(dut.idle) == (not step.work)
            coming.append(ctx.get(dut.head_weighed))
            before = bool(step.work)
            written += ctx.get(dut.written)
            made += ctx.get(dut.head_weighed)
            heads_used += use
            await ctx.tick()
            cycle += 1
        assert seen == expected * ROUNDS
        assert furthest == (0 if serial else 1)
        if not stalls and not serial:
            assert starts[1] - starts[0] == len(expected) + 1

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
        for _ in range(20 * most):
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
