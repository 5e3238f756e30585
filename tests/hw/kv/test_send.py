"""A staged entry goes to its place in its port's memory, a beat per cycle."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.format import staging_depth
from hw.kv.send import EntrySender
from skipopu.machine import pipeline
from skipopu.machine.accepted import LARGEST_MAP
from skipopu.machine.config import Machine
from tests.hw.bench import exercise
from tests.hw.kv.support import SentToPorts

MACHINE = Machine.load("trio")
BEATS, POOL, ENTRY_UNITS = 9, (1 << 27) + 50, 5  # the pool lies above 4 GB
UNIT_BEATS = 64 // MACHINE.beat_bytes


def way(machine: Machine) -> int:
    """Cycles from a beat that is sent to the port's: out of the sender, then two through an outpost; none to an only port."""
    return 3 * pipeline.apart(machine)


@pytest.mark.parametrize("ports", [MACHINE.ports, 1])
def test_entries_of_all_ports(ports: int) -> None:
    machine = dataclasses.replace(MACHINE, ports=ports)
    dut, rng = EntrySender(machine), np.random.default_rng(0)
    there = SentToPorts(dut)
    staged = [int.from_bytes(rng.bytes(MACHINE.beat_bytes), "little") for _ in range(BEATS)]
    jobs = [(int(rng.integers(ports)), int(rng.choice((0, LARGEST_MAP - 1000)) + rng.integers(1000))) for _ in range(8)]
    starts: list[int] = []

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        every, cycle = (1 << ports) - 1, 0
        starts.clear()
        for port, place in jobs:
            ctx.set(dut.port, port)
            ctx.set(dut.place, place)
            await ctx.tick().repeat(2)
            ctx.set(dut.start, 1)
            starts.append(cycle + 2)
            await ctx.tick()
            ctx.set(dut.start, 0)
            cycle, asked, sent, came, writes = cycle + 3, 0, 0, 0, there.writes[port]
            moves = writes.runs.valid & writes.runs.ready, writes.beats.valid & writes.beats.ready
            while came < BEATS or not asked:
                _, _, run, beat, sending, done = await ctx.tick().sample(*moves, dut.sending, dut.done)
                assert not done
                cycle, asked, sent, came = cycle + 1, asked + run, sent + sending, came + beat
            assert (asked, sent) == (1, BEATS)
            for _ in range(stalls.randrange(4) if stalls else 1):
                ctx.set(there.written, every - (1 << port))  # another port's write says nothing
                assert ctx.get(dut.waiting)
                assert not ctx.get(dut.done)
                await ctx.tick()
                cycle += 1
            ctx.set(there.written, 1 << port)
            await ctx.tick()
            ctx.set(there.written, 0)
            for _ in range(pipeline.apart(machine)):
                assert ctx.get(dut.waiting)
                assert not ctx.get(dut.done)
                await ctx.tick()
                cycle += 1
            assert ctx.get(dut.done)
            await ctx.tick()
            cycle += 2

    async def beside(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        while True:
            _, _, address = await ctx.tick().sample(dut.staged.address)
            ctx.set(dut.staged.data, staged[address] if address < BEATS else 0)

    runs = [
        [{"beat": (POOL + place * ENTRY_UNITS) * UNIT_BEATS, "count": BEATS} for port, place in jobs if port == p]
        for p in range(ports)
    ]
    strobe = (1 << MACHINE.beat_bytes) - 1
    expect = {}
    for p, writes in enumerate(there.writes):
        expect[writes.runs] = runs[p]
        expect[writes.beats] = [{"data": beat, "strobe": strobe} for _ in runs[p] for beat in staged]
    seen = exercise(
        there,
        {},
        expect,
        constants=[(dut.pool.base, POOL), (dut.pool.entry, ENTRY_UNITS), (dut.count, BEATS)],
        drive=drive,
        beside=beside,
    )
    asked = {p: iter(seen.given[writes.runs]) for p, writes in enumerate(there.writes)}
    given = {p: iter(seen.given[writes.beats]) for p, writes in enumerate(there.writes)}
    for start, (port, _) in zip(starts, jobs, strict=True):
        assert next(asked[port]) == start + 1 + 2 * pipeline.apart(machine)
        first = start + 2 + way(machine)
        assert [next(given[port]) for _ in range(BEATS)] == list(range(first, first + BEATS))


@pytest.mark.parametrize("ports", [MACHINE.ports, 1])
def test_the_longest_entry(ports: int) -> None:
    machine = dataclasses.replace(MACHINE, ports=ports)
    dut, beats = EntrySender(machine), staging_depth(machine)
    there = SentToPorts(dut)
    writes = there.writes[0]

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        await ctx.tick().repeat(2)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        while not ctx.get(dut.waiting):
            address = ctx.get(dut.staged.address)
            await ctx.tick()
            ctx.set(dut.staged.data, address + 1)
        for _ in range(way(machine)):
            assert ctx.get(writes.beats.valid) == 1
            await ctx.tick()
        assert ctx.get(writes.beats.valid) == 0

    expect = {writes.runs: [{"count": beats}], writes.beats: [{"data": k + 1} for k in range(beats)]}
    exercise(there, {}, expect, constants=[(dut.count, beats)], drive=drive, seeds=())
