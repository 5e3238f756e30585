"""Turns of hits and misses: each in its own order, hits as long as the first miss's beats would not come in time."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.sim import SimulatorContext

from hw.kv.order import CHOSEN, EntryOrder
from skipopu.layout import KvEntry
from skipopu.machine.config import Machine
from tests.hw.kv.support import set_heads, simulate

MACHINE = Machine.load("tiny")
ENTRY = KvEntry(2, 8, MACHINE)


def entry(token: int, values: int) -> dict[str, Any]:
    return {"token": token, "score": 2 * token, "half": {"values": values}}


@pytest.mark.parametrize("values", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_every_entry_once(values: int, seed: int) -> None:
    dut, rng, often = EntryOrder(MACHINE), random.Random(seed), (0.5, 0.1, 0.02)[seed]
    beats = ENTRY.beats - ENTRY.key_beats if values else ENTRY.key_beats
    tokens = list(range(24))
    queues = {True: [t for t in tokens if t % 3], False: [t for t in tokens if not t % 3]}
    streams = {True: dut.hits, False: dut.misses}

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, ENTRY)
        await ctx.tick()
        ctx.set(dut.phase.keys, 1 - values)
        ctx.set(dut.phase.values, values)
        settled: list[tuple[int, bool]] = []
        shown = {True: False, False: False}
        turns = weighed = number = settled_beats = settled_hits = 0
        while turns < len(tokens):
            level = rng.choice((0, 0, 1, 2))
            ctx.set(dut.level, level)
            for hit, stream in streams.items():
                shown[hit] |= bool(queues[hit]) and rng.random() < (often if hit else 0.5)
                ctx.set(stream.valid, shown[hit])
                if shown[hit]:
                    ctx.set(stream.payload, entry(queues[hit][0], values))
            there = turns < len(settled) and ctx.get(dut.there)
            pop = bool(there) and rng.random() < 0.5
            end = pop and number == beats - 1
            if there:
                turn = ctx.get(dut.turn)
                assert (turn.entry.token, bool(turn.hit)) == settled[turns]
            softmax = values and ctx.get(dut.softmax_ready) and rng.random() < 0.8
            if softmax:
                assert ctx.get(dut.softmax_score) == 2 * settled[weighed][0]
            for port, value in ((dut.pop, pop), (dut.end, end), (dut.softmax_end, softmax)):
                ctx.set(port, int(bool(value)))
            took = {hit: shown[hit] and ctx.get(stream.ready) for hit, stream in streams.items()}
            assert not (took[True] and took[False])
            ahead = len(settled) - turns
            assert ahead <= CHOSEN
            in_time = level + settled_hits > settled_beats >> 3
            early = not shown[True] and (ahead < 3 if values else ahead == 1)
            if took[True]:  # the miss has to wait
                assert not (shown[False] and (in_time or early))
            if took[False]:
                assert in_time or early
            elif shown[False] and ahead < CHOSEN and (not values or len(settled) - weighed < CHOSEN):
                assert not in_time
                assert not early
            await ctx.tick()
            for hit in streams:
                if took[hit]:
                    settled.append((queues[hit].pop(0), hit))
                    shown[hit] = False
                    settled_beats += beats
                    settled_hits += beats * hit
            if pop:
                settled_beats -= 1
                settled_hits -= settled[turns][1]
            number = 0 if end else number + pop
            turns += bool(end)
            weighed += bool(softmax)

    simulate(dut, bench)


def test_an_entry_per_cycle() -> None:
    dut = EntryOrder(MACHINE)

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, ENTRY)
        for port in (dut.phase.values, dut.hits.valid):
            ctx.set(port, 1)
        there = []
        for token in range(CHOSEN + 2):
            ctx.set(dut.hits.payload, entry(token, 1))
            assert ctx.get(dut.hits.ready) == (token < CHOSEN)
            there.append(ctx.get(dut.there))
            assert ctx.get(dut.softmax_ready) == there[-1]
            await ctx.tick()
        assert there == [0, 0, 1, 1, 1, 1]
        ctx.set(dut.hits.payload, entry(0, 0))  # keys in the phase of values
        ctx.set(dut.end, 1)
        ctx.set(dut.softmax_end, 1)
        await ctx.tick().repeat(3)
        assert not ctx.get(dut.hits.ready)

    simulate(dut, bench)
