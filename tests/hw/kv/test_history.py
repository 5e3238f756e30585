"""The history buffer gives back what was kept, whole halves in the order asked for, and forgets when told."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.history import HistoryBuffer
from skipopu.layout import KvEntry
from skipopu.machine.accepted import LARGEST_MAP
from skipopu.machine.config import Machine
from tests.hw.kv.support import set_heads, simulate

MACHINE = Machine.load("trio")
ENTRY, SLOTS = KvEntry(2, 8, MACHINE), MACHINE.history_slots
WORDS = ENTRY.kv_heads * ENTRY.head_beats
PLACES = (1, LARGEST_MAP // 2 + 1, LARGEST_MAP - 1)
Half = tuple[int, int]  # slot, values


def fields(half: Half) -> dict[str, int]:
    return {"slot": half[0], "base": half[0] * 2 * WORDS, "values": half[1]}


def content(place: int, half: Half) -> list[int]:
    rng = np.random.default_rng([place, *half])
    count = WORDS if half[1] else ENTRY.key_beats
    return [int.from_bytes(rng.bytes(MACHINE.beat_bytes), "little") for _ in range(count)]


class Bench:
    """Keeps halves and knows which places they hold."""

    def __init__(self, dut: HistoryBuffer) -> None:
        self.dut, self.held = dut, dict[Half, int]()

    async def look_up(self, ctx: SimulatorContext, half: Half, place: int) -> None:
        """A miss is kept, as the fetch unit does."""
        dut = self.dut
        ctx.set(dut.lookup, fields(half))
        ctx.set(dut.place, place)
        ctx.set(dut.lookup_enable, 1)
        await ctx.tick()
        ctx.set(dut.lookup_enable, 0)
        ctx.set(dut.place, place + 1)  # the place looked up counts
        assert ctx.get(dut.hit) == (self.held.get(half) == place)
        if self.held.get(half) == place:
            return
        ctx.set(dut.keep, fields(half))
        ctx.set(dut.keep_enable, 1)
        await ctx.tick()
        ctx.set(dut.keep_enable, 0)
        ctx.set(dut.written, fields(half))
        for number, beat in enumerate(content(place, half)):
            for port, value in ((dut.written_number, number), (dut.written_data, beat), (dut.written_enable, 1)):
                ctx.set(port, value)
            await ctx.tick()
        ctx.set(dut.written_enable, 0)
        self.held[half] = place

    async def read(self, ctx: SimulatorContext, halves: list[Half], rng: np.random.Generator | None) -> list[int]:
        """Reads ``halves``; returns the cycles of their beats, the first half asked for in cycle 0."""
        dut, waiting, times, cycle = self.dut, list(halves), list[int](), 0
        expected = [beat for half in halves for beat in content(self.held[half], half)]
        while len(times) < len(expected):
            show, take = (True, True) if rng is None else (bool(rng.integers(2)), bool(rng.integers(2)))
            show &= bool(waiting)
            ctx.set(dut.reads.valid, show)
            if show:
                ctx.set(dut.reads.payload, fields(waiting[0]))
            ctx.set(dut.beats.ready, take)
            asked = show and ctx.get(dut.reads.ready)
            if take and ctx.get(dut.beats.valid):
                assert ctx.get(dut.beats.payload) == expected[len(times)]
                times.append(cycle)
            await ctx.tick()
            if asked:
                waiting.pop(0)
            cycle += 1
            assert cycle < 3000
        return times


async def clear(ctx: SimulatorContext, dut: HistoryBuffer) -> None:
    set_heads(ctx, dut.heads, ENTRY)
    ctx.set(dut.restart, 1)
    await ctx.tick()
    ctx.set(dut.restart, 0)
    cycles = 0
    while ctx.get(dut.clearing):
        await ctx.tick()
        cycles += 1
    assert cycles == 2 * SLOTS


@pytest.mark.parametrize("seed", range(2))
def test_against_a_dictionary(seed: int) -> None:
    dut, rng = HistoryBuffer(MACHINE), np.random.default_rng(seed)
    bench = Bench(dut)

    async def run(ctx: SimulatorContext) -> None:
        await clear(ctx, dut)
        for _ in range(2):
            for _ in range(12):
                half = int(rng.integers(SLOTS)), int(rng.integers(2))
                await bench.look_up(ctx, half, PLACES[rng.integers(3)])
            await bench.read(ctx, [list(bench.held)[i] for i in rng.integers(0, len(bench.held), 12)], rng)
        await clear(ctx, dut)
        before = dict(bench.held)
        bench.held.clear()
        for half, place in before.items():
            await bench.look_up(ctx, half, place)

    simulate(dut, run)


def test_a_beat_per_cycle_with_one_between_halves() -> None:
    dut = HistoryBuffer(MACHINE)
    bench = Bench(dut)

    async def run(ctx: SimulatorContext) -> None:
        await clear(ctx, dut)
        halves = [(0, 0), (1, 1), (2, 0)]
        for half in halves:
            await bench.look_up(ctx, half, 7)
        times = await bench.read(ctx, halves, None)
        expected, at = [], 5
        for half in halves:
            count = len(content(7, half))
            expected += range(at, at + count)
            at += count + 1
        assert times == expected

    simulate(dut, run)
