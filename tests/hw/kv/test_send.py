"""A staged entry goes to its place in its port's memory, a beat per cycle."""

from __future__ import annotations

import random

import numpy as np
from amaranth.sim import SimulatorContext

from hw.kv.format import staging_depth
from hw.kv.send import EntrySender
from skipopu.machine.accepted import LARGEST_MAP
from skipopu.machine.config import Machine
from tests.hw.bench import exercise

MACHINE = Machine.load("trio")
BEATS, POOL, ENTRY_UNITS = 9, (1 << 27) + 50, 5  # the pool lies above 4 GB
UNIT_BEATS = 64 // MACHINE.beat_bytes


def test_entries_of_all_ports() -> None:
    dut, rng = EntrySender(MACHINE), np.random.default_rng(0)
    staged = [int.from_bytes(rng.bytes(MACHINE.beat_bytes), "little") for _ in range(BEATS)]
    jobs = [(int(rng.integers(MACHINE.ports)), int(rng.choice((0, LARGEST_MAP - 1000)) + rng.integers(1000))) for _ in range(8)]
    starts: list[int] = []

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        every, cycle = (1 << MACHINE.ports) - 1, 0
        starts.clear()
        for port, place in jobs:
            ctx.set(dut.port, port)
            ctx.set(dut.place, place)
            await ctx.tick().repeat(2)
            ctx.set(dut.start, 1)
            starts.append(cycle + 2)
            await ctx.tick()
            ctx.set(dut.start, 0)
            cycle, sent = cycle + 3, 0
            while sent < BEATS:
                _, _, sending, done = await ctx.tick().sample(dut.sending, dut.done)
                assert not done
                cycle, sent = cycle + 1, sent + sending
            for _ in range(stalls.randrange(4) if stalls else 1):
                ctx.set(dut.written, every - (1 << port))  # another port's write says nothing
                assert ctx.get(dut.waiting)
                await ctx.tick()
                cycle += 1
            ctx.set(dut.written, 1 << port)
            await ctx.tick()
            ctx.set(dut.written, 0)
            assert ctx.get(dut.done)
            await ctx.tick()
            cycle += 2

    async def beside(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        while True:
            _, _, address = await ctx.tick().sample(dut.staged.address)
            ctx.set(dut.staged.data, staged[address] if address < BEATS else 0)

    runs = [
        [{"beat": (POOL + place * ENTRY_UNITS) * UNIT_BEATS, "count": BEATS} for port, place in jobs if port == p]
        for p in range(MACHINE.ports)
    ]
    strobe = (1 << MACHINE.beat_bytes) - 1
    expect = {}
    for p, writes in enumerate(dut.writes):
        expect[writes.runs] = runs[p]
        expect[writes.beats] = [{"data": beat, "strobe": strobe} for _ in runs[p] for beat in staged]
    seen = exercise(
        dut,
        {},
        expect,
        constants=[(dut.pool.base, POOL), (dut.pool.entry, ENTRY_UNITS), (dut.count, BEATS)],
        drive=drive,
        beside=beside,
    )
    given = {p: iter(seen.given[writes.beats]) for p, writes in enumerate(dut.writes)}
    for start, (port, _) in zip(starts, jobs, strict=True):
        assert [next(given[port]) for _ in range(BEATS)] == list(range(start + 2, start + 2 + BEATS))


def test_the_longest_entry() -> None:
    dut, beats = EntrySender(MACHINE), staging_depth(MACHINE)
    writes = dut.writes[0]

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        await ctx.tick().repeat(2)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        while not ctx.get(dut.waiting):
            address = ctx.get(dut.staged.address)
            await ctx.tick()
            ctx.set(dut.staged.data, address + 1)
        assert ctx.get(writes.beats.valid) == 0

    expect = {writes.runs: [{"count": beats}], writes.beats: [{"data": k + 1} for k in range(beats)]}
    exercise(dut, {}, expect, constants=[(dut.count, beats)], drive=drive, seeds=())
