"""Rounds of keys and of values, step by step, against nested loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.shapes import HeadShapes
from hw.kv.walk import KvWalk
from skipopu.layout import KvEntry
from skipopu.machine.config import QUERY_LANES, Machine
from tests.hw.kv.support import LARGEST, set_heads, simulate

MACHINE = Machine.load("trio")
ENTRY = KvEntry(2, 16, MACHINE)  # two beats per head

Block = dict[str, Any]


def random_blocks(rng: np.random.Generator, count: int, machine: Machine = MACHINE) -> list[Block]:
    return [
        {
            "lanes": int(rng.integers(1, 1 << QUERY_LANES)),
            "base": int(rng.integers(0, 64)),
            "slots": [int(s) for s in rng.integers(0, machine.tokens, QUERY_LANES)],
        }
        for _ in range(count)
    ]


def steps(entry: KvEntry, blocks: list[Block], values: bool) -> Iterator[dict[str, Any]]:
    """Of an entry's round: what is promised of each."""
    for number in range(0 if values else entry.header_beats):
        yield {"header": 1, "work": 0, "header_number": number, "pop": 1, "entry_end": 0}
    heads = [(h, b, k) for h in range(entry.kv_heads) for b in range(entry.head_beats) for k in range(len(blocks))]
    for head, beat, k in heads:
        lanes = [q for q in range(QUERY_LANES) if blocks[k]["lanes"] >> q & 1]
        for lane in lanes if values else lanes[:1]:
            beat_end = k == len(blocks) - 1 and (not values or lane == lanes[-1])
            last_beat = beat == entry.head_beats - 1
            step = {
                "header": 0,
                "work": 1,
                "kv_head": head,
                "block": k,
                "lanes": blocks[k]["lanes"],
                "slots": blocks[k]["slots"],
                "first_beat": beat == 0,
                "last_beat": last_beat,
                "number": head * len(blocks) + k,
                "number_first": head * len(blocks),
                "pop": beat_end,
                "entry_end": beat_end and last_beat and head == entry.kv_heads - 1,
            }
            word = head * entry.head_beats
            yield (step | {"lane": lane} if values else step) | {
                "sum_number": (head * entry.head_beats + beat) * len(blocks) + k,
                "word": blocks[k]["base"] + word + beat,
                "head": blocks[k]["base"] + word,
                "head_end": beat_end and last_beat,
            }


def seen_step(ctx: SimulatorContext, dut: KvWalk, names: list[str]) -> dict[str, Any]:
    step = ctx.get(dut.round.step)
    others = {
        "sum_number": dut.round.sum_number,
        "word": dut.query.word,
        "head": dut.query.head,
        "head_end": dut.head_end,
    }
    return {
        name: [step.slots[q] for q in range(QUERY_LANES)]
        if name == "slots"
        else (ctx.get(others[name]) if name in others else step[name])
        for name in names
    }


@pytest.mark.parametrize("stalls", [True, False])
def test_rounds(stalls: bool) -> None:
    """A step takes a beat of every port that is in the round; there is one whenever each had another behind it, or waits with one."""
    walked(ENTRY, HeadShapes(MACHINE).blocks, 3, stalls)


@pytest.mark.parametrize(("kv_heads", "head_dim"), [(64, 4), (2, 256)])
def test_rounds_of_the_most_heads_and_of_the_longest(kv_heads: int, head_dim: int) -> None:
    walked(KvEntry(kv_heads, head_dim, LARGEST), 1, 1, stalls=False)


def walked(entry: KvEntry, most: int, rounds: int, stalls: bool) -> None:
    """Walks entries like ``entry`` of each phase, with up to ``most`` blocks of queries."""
    machine = entry.machine
    every = (1 << machine.ports) - 1
    dut, rng = KvWalk(machine), np.random.default_rng(0)
    beats = np.zeros(machine.ports, dtype=np.int64)
    ports = np.arange(machine.ports)

    def bring(ctx: SimulatorContext) -> None:
        """Memory: beats that each port holds, told to the walk."""
        beats[:] = np.minimum(beats + (rng.random(machine.ports) < 0.8), 3) if stalls else 3
        ctx.set(dut.beats_ready, int(((beats > 0) << ports).sum()))
        ctx.set(dut.beats_behind, int(((beats > 1) << ports).sum()))

    async def phase(ctx: SimulatorContext, values: bool) -> None:
        blocks = random_blocks(rng, int(rng.integers(1, most + 1)), machine)
        set_heads(ctx, dut.heads, entry)
        ctx.set(dut.listed.count, len(blocks))
        for k, block in enumerate(blocks):
            ctx.set(dut.listed.blocks[k], block)
        await ctx.tick()
        ctx.set(dut.phase.keys, not values)
        ctx.set(dut.phase.values, values)
        for number in range(rounds):
            active = int(rng.integers(1, every + 1)) if stalls else every
            if stalls:  # more may come to a port without an entry
                ctx.set(dut.last_entries, 0)
                ctx.set(dut.pending, active if active != every else every >> 1)
                for _ in range(int(rng.integers(0, 3))):
                    await ctx.tick()
                    assert ctx.get(dut.idle)
            ctx.set(dut.pending, active)
            ctx.set(dut.last_entries, active != every)
            bring(ctx)
            taking = (active >> ports & 1).astype(bool)
            sure = bool((beats[taking] > 0).all())
            await ctx.tick()
            for expected in steps(entry, blocks, values):
                while True:
                    bring(ctx)
                    weighed = not stalls or bool(rng.random() < 0.7)
                    ctx.set(dut.weighed, weighed)
                    assert not ctx.get(dut.idle)
                    assert ctx.get(dut.active) == active
                    may = weighed or not values
                    step = ctx.get(dut.round.step)
                    moves = bool(step.header or step.work)
                    assert moves or not (sure and may)
                    sure = bool((beats[taking] > (moves or not may)).all())
                    if moves:
                        assert may
                        assert (beats[taking] > 0).all()
                        beats[taking] -= step.pop
                        assert seen_step(ctx, dut, list(expected)) == expected
                        assert step.parity == number % 2
                        assert ctx.get(dut.round.first) == (number == 0)
                        assert ctx.get(dut.round_end) == expected["entry_end"]
                        ctx.set(dut.pending, 0 if expected["entry_end"] else active)
                    await ctx.tick()
                    if moves:
                        break
            assert ctx.get(dut.idle)
        ctx.set(dut.phase.keys, 0)
        ctx.set(dut.phase.values, 0)
        await ctx.tick()

    async def bench(ctx: SimulatorContext) -> None:
        await ctx.tick()
        for values in (False, True):
            await phase(ctx, values)

    simulate(dut, bench)
