"""The entries that a walk over the map asks for, their order and its pace."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.map import MapWalk
from skipopu.layout import KvEntry
from skipopu.machine.accepted import LARGEST_MAP
from skipopu.machine.config import AHEAD_STEP, Machine
from skipopu.machine.limits import LARGEST_CONTEXT, largest_entry
from tests.hw.kv.support import LARGEST, set_heads, simulate

MACHINE = dataclasses.replace(Machine.load("trio"), window=True)
PORTS, ENTRY = MACHINE.ports, KvEntry(2, 8, MACHINE)
ENTRY_WORDS, HISTORY, ROW = 5, 4, 100
KV_WORDS = ENTRY.kv_heads * ENTRY.head_beats
PLACES = np.random.default_rng(1).integers(0, 1 << 20, MACHINE.map_entries)


def wanted(token: int, values: int, ahead: int, first: int) -> dict[str, Any]:
    slot = token // PORTS
    return {
        "port": token % PORTS,
        "place": PLACES[ROW + token],
        "token": token,
        # Nothing is scored ahead.
        "score": (slot - first // PORTS) * ENTRY_WORDS if not ahead else None,
        "slot": slot % (1 << 3) if slot < HISTORY else None,
        "base": slot * 2 * KV_WORDS if slot < HISTORY else None,
        "values": values,
        "kept": slot < HISTORY,
        "ahead": ahead,
    }


def ahead_of(known: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """(token, values) in rounds with steps between them, from ``first``'s on, as far as entries are kept."""
    for start in range(first // PORTS * PORTS, min(known, HISTORY * PORTS), AHEAD_STEP * PORTS):
        for values in (0, 1):
            for token in range(start, min(start + PORTS, known)):
                yield token, values


class Bench:
    """The map, a cycle behind its address, and ports that take entries."""

    def __init__(self, dut: MapWalk, stalls: bool) -> None:
        self.dut, self.stalls, self.rng = dut, stalls, np.random.default_rng(0)
        self.cycle = 0

    async def tick(self, ctx: SimulatorContext) -> None:
        address = ctx.get(self.dut.map.address)
        await ctx.tick()
        self.cycle += 1
        ctx.set(self.dut.map.data, {"place": int(PLACES[address])})
        ctx.set(self.dut.taken, 0)

    async def expect(self, ctx: SimulatorContext, token: int, values: int, ahead: int, first: int = 0) -> int:
        """The next entry is this one; returns the cycle in which it was taken."""
        dut = self.dut
        for _ in range(60):
            if ctx.get(dut.asking):
                take = not self.stalls or self.rng.random() < 0.5
                ctx.set(dut.taken, take)
                assert ctx.get(dut.blocked) == (not take)
                entry = ctx.get(dut.wanted)
                half = entry.entry.half
                seen = {
                    "port": ctx.get(dut.here).bit_length() - 1,
                    "place": entry.place,
                    "slot": half.slot,
                    "base": half.base,
                    "values": half.values,
                    **{name: entry.entry[name] for name in ("token", "score", "kept", "ahead")},
                }
                expected = wanted(token, values, ahead, first)
                assert seen == {name: seen[name] if value is None else value for name, value in expected.items()}
                if take:
                    await self.tick(ctx)
                    return self.cycle - 1
            await self.tick(ctx)
        raise AssertionError(f"{token} is not asked for")


async def prepare(ctx: SimulatorContext, dut: MapWalk) -> None:
    set_heads(ctx, dut.heads, ENTRY)
    for port, value in (
        (dut.entry_words, ENTRY_WORDS),
        (dut.layer.history, HISTORY),
        (dut.map_row, ROW),
        (dut.layer.next_row, ROW),
    ):
        ctx.set(port, value)


@pytest.mark.parametrize("serial", [False, True])
@pytest.mark.parametrize("stalls", [True, False])
def test_keys_then_values(stalls: bool, serial: bool) -> None:
    dut = MapWalk(MACHINE)
    bench = Bench(dut, stalls)

    async def run(ctx: SimulatorContext) -> None:
        await prepare(ctx, dut)
        ctx.set(dut.serial, serial)
        for last, window in ((6, 0), (0, 0), (7, 0), (7, 3), (20, 6), (20, 30), (9, 1)):
            first = max(0, last + 1 - window) if window else 0
            for port, value in ((dut.last, last), (dut.own, last), (dut.window, window)):
                ctx.set(port, value)
            for _ in range(3):
                await bench.tick(ctx)
            ctx.set(dut.start, 1)
            await bench.tick(ctx)
            started = bench.cycle - 1
            ctx.set(dut.start, 0)
            ctx.set(dut.phase.keys, 1)
            for values in (0, 1):
                if values and serial:
                    for _ in range(4):
                        assert not ctx.get(dut.asking)
                        await bench.tick(ctx)
                    ctx.set(dut.phase.keys, 0)
                    ctx.set(dut.phase.values, 1)
                for token in range(first, last + 1):
                    taken = await bench.expect(ctx, token, values, 0, first)
                    if not stalls and not values:
                        assert taken == started + 2 + token - first
                assert ctx.get(dut.keys_requested)
                assert ctx.get(dut.values_requested) == values
            ctx.set(dut.phase.keys, 0)
            ctx.set(dut.phase.values, 1)
            await bench.tick(ctx)
            assert ctx.get(dut.values_requested)
            ctx.set(dut.phase.values, 0)

    simulate(dut, run)


def test_own_entries_wait_until_they_are_written() -> None:
    dut = MapWalk(MACHINE)
    bench = Bench(dut, True)

    async def run(ctx: SimulatorContext) -> None:
        await prepare(ctx, dut)
        for port, value in ((dut.last, 5), (dut.own, 4), (dut.unwritten, 1), (dut.start, 1)):
            ctx.set(port, value)
        await bench.tick(ctx)
        ctx.set(dut.start, 0)
        ctx.set(dut.phase.keys, 1)
        for token in range(4):
            await bench.expect(ctx, token, 0, 0)
        for _ in range(5):
            assert not ctx.get(dut.asking)
            assert not ctx.get(dut.blocked)
            await bench.tick(ctx)
        ctx.set(dut.unwritten, 0)
        await bench.expect(ctx, 4, 0, 0)

    simulate(dut, run)


@pytest.mark.parametrize(("known", "window"), [(1, 0), (5, 0), (30, 0), (11, 6), (7, 40), (11, 2), (30, 9)])
def test_ahead_of_an_instruction(known: int, window: int) -> None:
    dut = MapWalk(MACHINE)
    bench = Bench(dut, True)

    async def run(ctx: SimulatorContext) -> None:
        await prepare(ctx, dut)
        first = max(0, known + 1 - window) if window else 0
        ctx.set(dut.layer.known, known)
        ctx.set(dut.layer.next_window, window)
        for _ in range(3):
            await bench.tick(ctx)
        ctx.set(dut.layer.row_start, 1)
        await bench.tick(ctx)
        ctx.set(dut.layer.row_start, 0)
        ctx.set(dut.idle, 1)
        for _ in range(4):  # not before it may
            assert not ctx.get(dut.ahead)
            await bench.tick(ctx)
        ctx.set(dut.layer.may_prefetch, 1)
        ctx.set(dut.layer.next_window, 1)  # another layer's: it was asked for with row_start
        for token, values in ahead_of(known, first):
            await bench.expect(ctx, token, values, 1)
        for _ in range(8):
            assert not ctx.get(dut.asking)
            await bench.tick(ctx)
        assert not ctx.get(dut.ahead)
        assert ctx.get(dut.filling), "ports may still ask for what was wanted last"
        # Nothing is known that the one query of a window sees.
        ctx.set(dut.layer.row_start, 1)
        await bench.tick(ctx)
        ctx.set(dut.layer.row_start, 0)
        for _ in range(8):
            assert not ctx.get(dut.ahead)
            await bench.tick(ctx)
        # The instruction comes while the walk goes on.
        ctx.set(dut.layer.next_window, 0)
        for _ in range(3):
            await bench.tick(ctx)
        ctx.set(dut.layer.row_start, 1)
        await bench.tick(ctx)
        ctx.set(dut.layer.row_start, 0)
        await bench.expect(ctx, 0, 0, 1)
        ctx.set(dut.layer.row_end, 1)
        assert not ctx.get(dut.asking)
        await bench.tick(ctx)
        assert not ctx.get(dut.ahead)
        assert not ctx.get(dut.filling)

    simulate(dut, run)


def test_the_end_of_the_largest_map() -> None:
    """The last tokens of the longest context in the last layer, of an instruction and ahead of it."""
    dut, entry, window = MapWalk(LARGEST), largest_entry(LARGEST), 8
    row, first = LARGEST_MAP - LARGEST_CONTEXT, LARGEST_CONTEXT - window
    beats = 2 * entry.kv_heads * entry.head_beats

    async def entries(ctx: SimulatorContext, asked: list[tuple[int, int]]) -> None:
        for token, values in asked:
            address = row + token
            for _ in range(20):
                if ctx.get(dut.asking):
                    break
                ctx.set(dut.map.data.place, ctx.get(dut.map.address))
                await ctx.tick()
            wanted = ctx.get(dut.wanted)
            half = wanted.entry.half
            assert (wanted.entry.token, half.slot, half.values) == (token, token, values)
            assert half.base == token * beats % LARGEST.history
            assert wanted.place == address
            ctx.set(dut.taken, 1)
            following = ctx.get(dut.map.address)
            await ctx.tick()
            ctx.set(dut.map.data.place, following)
            ctx.set(dut.taken, 0)

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, entry, LARGEST.query_group)
        state = [(dut.layer.history, LARGEST.history_slots), (dut.map_row, row), (dut.layer.next_row, row)]
        state += [(dut.own, LARGEST_CONTEXT - 1), (dut.last, LARGEST_CONTEXT - 1), (dut.window, window)]
        state += [(dut.layer.known, LARGEST_CONTEXT - 1), (dut.layer.next_window, window), (dut.serial, 1)]
        for port, value in state:
            ctx.set(port, value)
        await ctx.tick().repeat(3)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        ctx.set(dut.phase.keys, 1)
        await entries(ctx, [(token, 0) for token in range(first, LARGEST_CONTEXT)])
        assert ctx.get(dut.keys_requested)
        ctx.set(dut.phase.keys, 0)
        ctx.set(dut.phase.values, 1)
        await entries(ctx, [(token, 1) for token in range(first, LARGEST_CONTEXT)])
        ctx.set(dut.phase.values, 0)
        for port in (dut.layer.may_prefetch, dut.idle, dut.layer.row_start):
            ctx.set(port, 1)
        await ctx.tick()
        ctx.set(dut.layer.row_start, 0)
        ahead = range(first, LARGEST_CONTEXT - 1, AHEAD_STEP)
        await entries(ctx, [(token, values) for token in ahead for values in (0, 1)])
        await ctx.tick()
        assert not ctx.get(dut.ahead)

    simulate(dut, bench)
