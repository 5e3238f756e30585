"""Rounds of keys and of values, step by step, against nested loops; queries are taken out before the next sum is put in their place."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.shapes import HeadShapes
from hw.kv.stationary.walk import HeldWalk
from hw.pe.stationary.slice import StationarySlice
from skipopu.layout import KvEntry
from skipopu.machine.config import BEATS_HELD, ENTRIES_HELD, QUERY_LANES, Machine
from tests.hw.kv.support import set_heads, simulate
from tests.hw.kv.test_walk import Block, random_blocks

MACHINE = dataclasses.replace(Machine.load("tiny-masks"), kv_heads=16)
ENTRY = KvEntry(9, 2 * MACHINE.kv_lanes, MACHINE)  # two header beats
EVERY = (1 << MACHINE.ports) - 1
BLOCKS = min(HeadShapes(MACHINE).blocks, MACHINE.query_words // (ENTRY.kv_heads * ENTRY.head_beats))
Step = dict[str, Any]


def lanes_of(block: Block) -> list[int]:
    return [q for q in range(QUERY_LANES) if block["lanes"] >> q & 1]


def steps(blocks: list[Block], values: bool, alone: bool, entries: int, first: int, number: int) -> Iterator[Step]:
    """Of a round of ``entries`` entries, ``number`` rounds of entries behind the first: beats count from ``first`` on.

    Of values that go together all beats are ``kept`` until the round ends, else a head of keys, or a beat of values, until it is used up.
    """
    run = ENTRY.key_beats - ENTRY.header_beats * values
    for k in range(0 if values else ENTRY.header_beats):
        yield {
            "at": first + k,
            "product": 0,
            "header": 1,
            "work": 0,
            "header_number": k,
            "entry": number,
            "of": 0,
            "kept": first,
        }
    body, count = first + (0 if values else ENTRY.header_beats), len(blocks)
    for head in range(ENTRY.kv_heads):
        beats = range(ENTRY.head_beats)
        loops = (
            [(b, k, e) for b in beats for k in range(count) for e in range(entries)]
            if values
            else [(b, k, 0) for k in range(count) for b in beats]
        )
        for beat, k, e in loops:
            word = head * ENTRY.head_beats + beat
            begins, ends = (e == 0, e == entries - 1) if values else (beat == 0, beat == ENTRY.head_beats - 1)
            used = word if values else word - beat
            yield {
                "at": body + word + e * run,
                "kept": body + used if alone and used else first,
                "product": 1,
                "first": begins,
                "last": ends,
                "header": 0,
                "work": 1,
                "kv_head": head,
                "first_beat": beat == 0,
                "lanes": blocks[k]["lanes"],
                "slots": blocks[k]["slots"],
                "number": head * count + k,
                "number_first": head * count,
                "round": (number + e) % ENTRIES_HELD,
                "word": blocks[k]["base"] + word,
                "head": blocks[k]["base"] + head * ENTRY.head_beats,
                "entry": number + e,
                "of": e,
                "sums": lanes_of(blocks[k]) if ends else [],
                "sum_number": word * count + k,
                "head_of_values": head if values else None,
            }


@pytest.mark.parametrize("together", [0, 1, 2])
@pytest.mark.parametrize("stalls", [True, False])
def test_rounds(together: int, stalls: bool) -> None:
    dut, rng, ports = HeldWalk(MACHINE), np.random.default_rng(together), MACHINE.ports
    taken_at, words = StationarySlice.PUT_ASIDE, 1 << len(dut.query.word)

    async def phase(ctx: SimulatorContext, values: bool) -> None:
        blocks = random_blocks(rng, int(rng.integers(1, BLOCKS + 1)), MACHINE)
        set_heads(ctx, dut.heads, ENTRY)
        ctx.set(dut.most, together)
        ctx.set(dut.listed.count, len(blocks))
        for k, block in enumerate(blocks):
            ctx.set(dut.listed.blocks[k], block)
        ctx.set(dut.phase.keys, not values)
        ctx.set(dut.phase.values, values)
        most = 1 << together if values else 1
        rounds = [
            *[[most] * ports] * (7 if most == 4 else 2),  # of seven: more beats than their numbers have a range
            [most, *[most // 2] * (ports - 1)],  # what no more come behind
            [max(1, most - 1), *[0] * (ports - 1)],
        ]
        first, number, heads_there, cycle = 0, 0, 0, 0
        told: dict[int, tuple[Step, int]] = {}
        taken: dict[int, tuple[int, Step, bool]] = {}
        busy = -1  # the last cycle in which something is taken out

        async def tick() -> None:
            """Looks at what follows the steps so far."""
            nonlocal cycle
            step, found = ctx.get(dut.step), ctx.get(dut.taken)
            if cycle in told:
                expected, active = told.pop(cycle)
                seen = {"word": ctx.get(dut.query.word), "head": ctx.get(dut.query.head), "entry": ctx.get(dut.progress.entry)}
                assert ctx.get(dut.active) == active
                assert seen["entry"] == expected["entry"] % ENTRIES_HELD
                for name in ("header", "work", *(["header_number"] if expected["header"] else [])):
                    assert step[name] == expected[name]
                if expected["work"]:
                    assert (seen["word"], seen["head"]) == (expected["word"] % words, expected["head"] % words)
                    assert [step.slots[q] for q in range(QUERY_LANES)] == expected["slots"]
                    for name in ("kv_head", "first_beat", "lanes", "number", "number_first", "round"):
                        assert step[name] == expected[name], name
            else:
                assert not step.header
                assert not step.work
            assert found.valid == (cycle in taken)
            if cycle in taken:
                lane, expected, opening = taken.pop(cycle)
                assert found.begin == (lane == expected["sums"][0])
                assert (found.lane, found.first, found.number) == (lane, opening, expected["number"])
                if values:
                    assert found.sum_number == expected["sum_number"]
            await ctx.tick()
            cycle += 1

        for turn, counts in enumerate(rounds):
            last, entries = turn >= len(rounds) - 2, max(counts)
            often = float(rng.choice([0.05, 0.5])) if stalls else 1
            coming = sum(map(max, rounds[turn : turn + 2]))  # entries whose probabilities may be made by then
            if stalls and not last:  # a port that may get another entry is waited for
                ctx.set(dut.last_entries, 0)
                for p, port in enumerate(dut.pending):
                    ctx.set(port, (1 << counts[p] - (p == 0)) - 1)
                for _ in range(3):
                    assert ctx.get(dut.idle)
                    await tick()
            assert not ctx.get(dut.progress.begin)
            for p, port in enumerate(dut.pending):
                ctx.set(port, (1 << counts[p]) - 1)
            ctx.set(dut.last_entries, last)
            assert ctx.get(dut.progress.begin)
            assert ctx.get(dut.waits)
            await tick()
            began = cycle
            for port in dut.pending:
                ctx.set(port, 0)
            assert not ctx.get(dut.waits)
            every = list(steps(blocks, values, most == 1, entries, first, number))
            needed = list(itertools.accumulate((step["at"] for step in reversed(every)), min))[::-1]  # from this step on
            for k, expected in enumerate(every):
                active = sum(1 << p for p in range(ports) if counts[p] > expected["of"])
                while True:
                    there = int(rng.integers(0, EVERY + 1)) if stalls and rng.random() < 0.5 else EVERY
                    ctx.set(dut.there, there)
                    wanted = (entries - 1) * ENTRY.kv_heads + (expected.get("head_of_values") or 0)
                    written = values and heads_there < coming * ENTRY.kv_heads and rng.random() < often
                    ctx.set(dut.written, written)
                    # In a round's first cycle the heads of entries before the last one are yet to be left out.
                    weighed = not values or (heads_there > wanted and (entries == 1 or cycle > began))
                    sums = expected.get("sums", [])
                    # The first of a sum's queries is taken PUT_ASIDE cycles behind its last step, when all before it are.
                    free = not sums or cycle + taken_at > busy
                    moves = not active & ~there and weighed and free
                    assert ctx.get(dut.progress.needed) == expected["at"] % (2 * BEATS_HELD)
                    kept = expected["kept"]
                    assert (ctx.get(dut.progress.freed) - kept) % (2 * BEATS_HELD) <= needed[k] - kept
                    assert ctx.get(dut.ended) == (entries if moves and values and k == len(every) - 1 else 0)
                    if values:
                        assert ctx.get(dut.weighed) == weighed
                    assert ctx.get(dut.working) == moves
                    beat = ctx.get(dut.beat)
                    assert beat.product == (moves and expected["product"])
                    if moves:
                        assert beat.address == expected["at"] % BEATS_HELD
                        if expected["product"]:
                            assert (beat.first, beat.last) == (expected["first"], expected["last"])
                        told[cycle + 1] = expected, active
                        for late, lane in enumerate(sums):
                            taken[cycle + taken_at + late] = lane, expected, turn == 0
                            busy = cycle + taken_at + late
                    heads_there += written
                    await tick()
                    if moves:
                        break
            heads_there = max(0, heads_there - entries * ENTRY.kv_heads)
            first = expected["at"] + 1
            number += entries
            assert ctx.get(dut.idle)
            assert ctx.get(dut.progress.freed) == first % (2 * BEATS_HELD)
            assert ctx.get(dut.progress.finished) == number % (2 * ENTRIES_HELD)
        ctx.set(dut.written, 0)
        for _ in range(taken_at + QUERY_LANES):
            await tick()
        assert not taken
        for port in (dut.phase.keys, dut.phase.values):
            ctx.set(port, 0)
        await ctx.tick()

    async def bench(ctx: SimulatorContext) -> None:
        await ctx.tick()
        for values in (False, True):
            await phase(ctx, values)

    simulate(dut, bench)
