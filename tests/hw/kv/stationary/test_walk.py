"""Rounds of keys and of values, step by step, against nested loops; queries are taken out before the next sum is put in their place."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.shapes import HeadShapes
from hw.kv.stationary.held import MORE
from hw.kv.stationary.walk import HeldWalk
from hw.pe.stationary.slice import StationarySlice
from skipopu.layout import KvEntry
from skipopu.machine import pipeline
from skipopu.machine.config import BEATS_HELD, ENTRIES_AT_ONCE, ENTRIES_HELD, QUERY_LANES, Machine
from tests.hw.kv.support import set_heads, simulate
from tests.hw.kv.test_walk import Block, random_blocks

MACHINE = dataclasses.replace(Machine.load("tiny-masks"), kv_heads=16)
LONG = KvEntry(9, 2 * MACHINE.kv_lanes, MACHINE)  # two header beats
SHORT = KvEntry(1, MACHINE.kv_lanes, MACHINE)  # a round is over before its begin is seen
LATE = pipeline.told(MACHINE)
Step = dict[str, Any]


def most_blocks(entry: KvEntry) -> int:
    return min(HeadShapes(MACHINE).blocks, MACHINE.query_words // (entry.kv_heads * entry.head_beats))


def lanes_of(block: Block) -> list[int]:
    return [q for q in range(QUERY_LANES) if block["lanes"] >> q & 1]


def steps(
    entry: KvEntry, blocks: list[Block], values: bool, alone: bool, entries: int, first: int, number: int
) -> Iterator[Step]:
    """Of a round of ``entries`` entries, ``number`` rounds of entries behind the first: beats count from ``first`` on.

    Of values that go together all beats are ``kept`` until the round ends, else a head of keys, or a beat of values, until it is used up.
    """
    run = entry.key_beats - entry.header_beats * values
    for k in range(0 if values else entry.header_beats):
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
    body, count = first + (0 if values else entry.header_beats), len(blocks)
    for head in range(entry.kv_heads):
        beats = range(entry.head_beats)
        loops = (
            [(b, k, e) for b in beats for k in range(count) for e in range(entries)]
            if values
            else [(b, k, 0) for k in range(count) for b in beats]
        )
        for beat, k, e in loops:
            word = head * entry.head_beats + beat
            begins, ends = (e == 0, e == entries - 1) if values else (beat == 0, beat == entry.head_beats - 1)
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
                "head": blocks[k]["base"] + head * entry.head_beats,
                "entry": number + e,
                "of": e,
                "sums": lanes_of(blocks[k]) if ends else [],
                "sum_number": word * count + k,
                "head_of_values": head if values else None,
            }


@dataclass
class Port:
    """What :class:`hw.kv.stationary.held.HeldEntries` says of a phase, of ``entries`` of ``run`` beats.

    came, begun: entries asked for, and those of rounds that it was told of. written: beats kept. pending: entries that waited a cycle before.
    answer: how many beats are kept beyond those known; none: no more will come.
    """

    entries: int
    run: int
    came: int = 0
    begun: int = 0
    written: int = 0
    pending: int = 0
    answer: int = 0
    none: bool = False

    def tick(self, comes: bool, keeps: bool, begins: int, last: bool, known: int, freed: int) -> None:
        """A cycle: an entry is asked for, a beat kept if there is room, a round of up to ``begins`` entries begins."""
        self.answer = MORE if self.none else min(MORE, self.written - known)
        self.none = last and self.written == self.came * self.run
        before = self.pending
        self.pending = min(ENTRIES_AT_ONCE, self.came - self.begun)
        self.begun += min(begins, before)
        self.written += keeps and self.written < min(self.came * self.run, freed + BEATS_HELD)
        self.came += comes and self.came < self.entries


@pytest.mark.parametrize("together", [0, 1, 2])
@pytest.mark.parametrize("stalls", [True, False])
@pytest.mark.parametrize("entry", [LONG, SHORT], ids=["long", "short"])
def test_rounds(entry: KvEntry, together: int, stalls: bool) -> None:
    dut, rng = HeldWalk(MACHINE), np.random.default_rng(together)
    taken_at, words = StationarySlice.PUT_ASIDE + LATE, 1 << len(dut.query.word)

    async def phase(ctx: SimulatorContext, values: bool) -> None:
        blocks = random_blocks(rng, int(rng.integers(1, most_blocks(entry) + 1)), MACHINE)
        if entry is SHORT:  # a query, whose sum is out at once
            blocks = [blocks[0] | {"lanes": 1}]
        set_heads(ctx, dut.heads, entry)
        ctx.set(dut.most, together)
        ctx.set(dut.listed.count, len(blocks))
        for k, block in enumerate(blocks):
            ctx.set(dut.listed.blocks[k], block)
        ctx.set(dut.phase.keys, not values)
        ctx.set(dut.phase.values, values)
        most, run = 1 << together if values else 1, entry.key_beats - entry.header_beats * values
        full = 9  # rounds of more beats than their numbers have a range
        ports = [Port(full * most + most // (1 + (p > 0)) + max(0, most - 1) * (p == 0), run) for p in range(MACHINE.ports)]
        first, number, heads_there, cycle, known, freed, all_came = 0, 0, 0, 0, 0, 0, 0
        told: dict[int, tuple[Step, int]] = {}
        beats: dict[int, Step] = {}
        kept: dict[int, tuple[int, int]] = {}  # beats used up at least and at most
        taken: dict[int, tuple[int, Step, bool]] = {}
        busy = -1  # the last cycle in which something is taken out
        begins: list[int] = []  # cycles in which the ports are told that a round begins

        async def tick() -> None:
            """Looks at what follows the steps so far, and lets the ports follow what they are told."""
            nonlocal cycle, known, freed, all_came
            step, found, beat, progress = ctx.get(dut.step), ctx.get(dut.taken), ctx.get(dut.beat), dut.progress
            if cycle in told:
                expected, active = told.pop(cycle)
                seen = {"word": ctx.get(dut.query.word), "head": ctx.get(dut.query.head)}
                assert ctx.get(dut.active) == active
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
            expected = beats.pop(cycle, {"product": 0})
            assert beat.product == expected["product"]
            if "entry" in expected:
                assert ctx.get(progress.entry) == expected["entry"] % ENTRIES_HELD
            if expected["product"]:
                assert beat.address == expected["at"] % BEATS_HELD
                assert (beat.first, beat.last) == (expected["first"], expected["last"])
            assert found.valid == (cycle in taken)
            if cycle in taken:
                lane, expected, opening = taken.pop(cycle)
                assert found.begin == (lane == expected["sums"][0])
                assert (found.lane, found.first, found.number) == (lane, opening, expected["number"])
                if values:
                    assert found.sum_number == expected["sum_number"]
            known += (ctx.get(progress.known) - known) % (2 * BEATS_HELD)
            freed += (ctx.get(progress.freed) - freed) % (2 * BEATS_HELD)
            least, greatest = kept.pop(cycle, (0, freed))
            assert least <= freed <= greatest
            assert freed <= known <= freed + BEATS_HELD
            if ctx.get(progress.begin):
                begins.append(cycle)
            all_came += all(port.came == port.entries for port in ports)
            ctx.set(dut.last_entries, all_came > 4)
            for port in ports:
                assert port.none or known <= port.written
                comes, keeps = ((rng.random(2) < 0.6).tolist()) if stalls else (True, True)
                port.tick(comes, keeps, most * ctx.get(progress.begin), bool(ctx.get(progress.last)), known, freed)
            await ctx.tick()
            cycle += 1
            for port, pending, more in zip(ports, dut.pending, dut.more, strict=True):
                ctx.set(pending, (1 << port.pending) - 1)
                ctx.set(more, (1 << port.answer) - 1)

        left = [port.entries for port in ports]
        turn = 0
        while any(left):
            counts = [min(most, entries) for entries in left]
            left = [entries - count for entries, count in zip(left, counts, strict=True)]
            entries = max(counts)
            often = float(rng.choice([0.05, 0.5])) if stalls else 1
            coming = entries + max(min(most, other) for other in left)  # entries whose probabilities may be made by then
            waited = 0
            while ctx.get(dut.idle):
                # Ports that may get another entry are waited for.
                ready = all_came > 4 or min(min(most, port.pending) for port in ports) == most
                waited = waited + 1 if ready else 0
                assert waited <= 3 + pipeline.answered(MACHINE)
                await tick()
            began = cycle
            every = list(steps(entry, blocks, values, most == 1, entries, first, number))
            needed = list(itertools.accumulate((step["at"] for step in reversed(every)), min))[::-1]  # from this step on
            for k, expected in enumerate(every):
                active = sum(1 << p for p, count in enumerate(counts) if count > expected["of"])
                while True:
                    wanted = (entries - 1) * entry.kv_heads + (expected.get("head_of_values") or 0)
                    written = values and heads_there < coming * entry.kv_heads and rng.random() < often
                    ctx.set(dut.written, written)
                    # In a round's first cycle the heads of entries before the last one are yet to be left out.
                    weighed = not values or (heads_there > wanted and (entries == 1 or cycle > began))
                    sums = expected.get("sums", [])
                    # The first of a sum's queries is taken PUT_ASIDE cycles behind its last step, when all before it are.
                    free = not sums or cycle + taken_at > busy
                    moves = ctx.get(dut.working)
                    if moves:  # then it is there, and what was known when the ports were told is enough
                        assert weighed
                        assert free
                        assert all(port.written > expected["at"] for p, port in enumerate(ports) if active >> p & 1)
                    else:
                        assert not (weighed and free and known > expected["at"])
                    kept[cycle + LATE] = expected["kept"], needed[k]
                    assert ctx.get(dut.ended) == 0
                    if values:
                        assert ctx.get(dut.weighed) == weighed
                    if moves:
                        told[cycle + LATE + 1], beats[cycle + LATE] = (expected, active), expected
                        for late, lane in enumerate(sums):
                            taken[cycle + taken_at + late] = lane, expected, turn == 0
                            busy = cycle + taken_at + late
                    heads_there += written
                    await tick()
                    if moves:
                        break
            heads_there = max(0, heads_there - entries * entry.kv_heads)
            first = expected["at"] + 1
            number += entries
            assert ctx.get(dut.idle)
            assert ctx.get(dut.ended) == (entries if values else 0)
            ctx.set(dut.written, 0)
            turn += 1
        for _ in range(taken_at + QUERY_LANES):
            await tick()
        assert not taken
        assert [port.begun for port in ports] == [port.entries for port in ports]
        assert len(begins) == turn
        assert freed == first
        assert ctx.get(dut.progress.finished) == number % (2 * ENTRIES_HELD)
        for port in (dut.phase.keys, dut.phase.values, dut.last_entries, *dut.pending, *dut.more):
            ctx.set(port, 0)
        await ctx.tick().repeat(2)

    async def bench(ctx: SimulatorContext) -> None:
        await ctx.tick()
        for values in (False, True):
            await phase(ctx, values)

    simulate(dut, bench)
