"""Entries in the multipliers' buffer: what comes in which order, how far ahead, and what the walk is told."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.stationary.held import MORE, HeldEntries
from skipopu.layout import KvEntry
from skipopu.machine import pipeline
from skipopu.machine.config import BEATS_HELD, ENTRIES_AT_ONCE, ENTRIES_HELD, Machine
from tests.hw.kv.support import set_heads, simulate

MACHINE = Machine.load("tiny-masks")
LANES = MACHINE.kv_lanes
ZERO = ("begin", "last", "known", "freed", "finished")  # between phases


@pytest.mark.parametrize(
    ("heads", "dim", "together"),
    [
        (2, LANES, 0),
        (3, 2 * LANES, 2),
        (8, 4 * LANES, 2),
        (5, 9 * LANES, 1),
        (33, 8 * LANES, 0),
    ],  # the last one: longer than the buffer
)
@pytest.mark.parametrize("stalls", [0, 0.2, 0.9])  # how often the walk waits, and memory
def test_a_phase_of_values_behind_one_of_keys(heads: int, dim: int, together: int, stalls: float) -> None:
    """No beat goes where one is still needed, no entry's description either; whoever walks finds both while it needs them."""
    dut, entry, rng = HeldEntries(MACHINE), KvEntry(heads, dim, MACHINE), np.random.default_rng(heads)
    asked = [0, 0]  # entries wanted of keys, of values
    behind = 1 + pipeline.told(MACHINE)  # what began with what was seen then is told now

    async def phase(ctx: SimulatorContext, values: bool, entries: int) -> int:
        run, most = entry.key_beats - entry.header_beats * values, 1 << together if values else 1
        for port, value in (
            (dut.phase.keys, not values),
            (dut.phase.values, values),
            (dut.progress.together, together * values),
        ):
            ctx.set(port, value)
        buffer, written, freed, finished, begun, cycle, waiting = [-1] * BEATS_HELD, 0, 0, 0, 0, 0, 0
        walking: list[int] = []  # beats of the round that are to be used, in their order
        known, answer, none, ended = (
            0,
            0,
            False,
            0,
        )  # beats said to be kept; how many more of them, a cycle ago; entries that came, whole
        used: int | None = None  # the entry of the step before
        used_up = 0, 0
        seen = [0] * (behind + 1)  # entries that waited, of so many cycles before
        await ctx.tick()  # the phase is in the port's registers
        while finished < entries:
            came = asked[values]
            which = values or (bool(stalls) and rng.random() < 0.3)  # values may be wanted while keys are used
            came_now = asked[which] < entries and (not stalls or bool(rng.integers(2)))
            ctx.set(dut.came, came_now)
            ctx.set(dut.came_values, which)
            assert ctx.get(dut.pending) == (1 << waiting) - 1  # of the cycle before
            seen = [*seen[1:], waiting]
            own = min(most, seen[0])
            steady = cycle > behind + 2 and begun + seen[0] <= came  # what began last was seen by then
            start = not walking and steady and own > 0 and (own == most or begun + own == entries)
            ctx.set(dut.progress.begin, start)
            waiting = min(ENTRIES_AT_ONCE, came - begun)
            if start:
                walking = [(begun + e) * run + w for w in range(run) for e in range(own)]
                begun += own
            if used is not None:  # the cycle before
                about = ctx.get(dut.own)
                assert (about.token, about.score) == (100 + used, 3 * used)
                used = None
            # Memory
            ready = written < came * run and (not stalls or rng.random() < 0.8)
            ctx.set(dut.ready, ready)
            present = written // run
            ctx.set(dut.present, {"token": 100 + present, "score": 3 * present})
            ctx.set(dut.progress.freed, freed % (2 * BEATS_HELD))
            ctx.set(dut.progress.finished, finished % (2 * ENTRIES_HELD))
            popped = ctx.get(dut.pop)
            room = written - used_up[0] < BEATS_HELD and (written % run > 0 or present - used_up[1] < ENTRIES_HELD)
            assert popped == (ready and room)
            used_up = freed, finished  # which the port knows a cycle later
            # What is said to be kept
            assert ctx.get(dut.more) == answer
            last = came == entries
            ctx.set(dut.progress.last, last)
            ctx.set(dut.progress.known, known % (2 * BEATS_HELD))
            answer = sum(1 << k for k in range(MORE) if none or written - known > k)
            none = last and ended == entries
            # A step of the walk
            if walking and not start:
                beat = walking[0]
                ctx.set(dut.progress.entry, beat // run % ENTRIES_HELD)
                if written > beat and rng.random() >= stalls:
                    assert buffer[beat % BEATS_HELD] == beat
                    used = beat // run
                    walking.pop(0)
                    if most == 1:
                        freed = beat + 1
                    if not walking:
                        freed, finished = begun * run, begun
            if popped:
                assert ctx.get(dut.address) == written % BEATS_HELD
                assert ctx.get(dut.end) == (written % run == run - 1)
                buffer[written % BEATS_HELD] = written
                written += 1
                ended = written // run
            else:
                assert not ctx.get(dut.end)
            asked[which] += came_now
            known += int(rng.integers(0, min(MORE, written - known) + 1))
            await ctx.tick()
            cycle += 1
        for port in (dut.phase.keys, dut.phase.values, dut.came, *(getattr(dut.progress, n) for n in ZERO)):
            ctx.set(port, 0)
        ctx.set(dut.ready, 0)
        await ctx.tick()
        ctx.set(dut.ready, 1)  # of the next phase
        assert not ctx.get(dut.pop)
        await ctx.tick()
        return cycle

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, entry)
        await ctx.tick()
        for values in (False, True):
            entries = 11 if entry.key_beats < BEATS_HELD else 3
            cycles = await phase(ctx, values, entries)
            run = entry.key_beats - entry.header_beats * values
            if not stalls and run > 8 and together == 0:  # a beat per cycle, a cycle between rounds and where a round begins
                assert cycles <= entries * (run + 2) + 4

    simulate(dut, bench)
