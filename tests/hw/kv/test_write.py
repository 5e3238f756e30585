"""KVWRITE: entries in memory, what the map says of them, and the digest; runs that keep the entries of tokens before their first."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.format import EntryFormatter
from hw.kv.write import KvWriteUnit
from skipopu.isa.spec import BUFFER_UNIT, KVWRITE
from skipopu.layout import KvEntry
from skipopu.machine import pipeline
from skipopu.machine.accepted import LARGEST_MAP
from skipopu.machine.config import Machine
from skipopu.machine.pipeline import SIGNATURE
from skipopu.numerics.signature import index, signature
from tests.hw.kv.support import SentToPorts, simulate
from tests.hw.kv.test_format import packed, random_heads
from tests.hw.kv.test_places import giving_back

MACHINE = Machine.load("trio")
ENTRY, CONTEXT, POOL = KvEntry(2, 8, MACHINE), 16, 10
UNITS, UNIT_BEATS = ENTRY.size // 64, 64 // MACHINE.beat_bytes
SOURCE, STRIDE = 2, 2 * ENTRY.kv_heads * ENTRY.head_dim // BUFFER_UNIT + 1  # buffer units


class Bench:
    """Buffer, map and memories around the unit."""

    def __init__(self, dut: KvWriteUnit, stalls: bool) -> None:
        self.dut, self.stalls, self.rng = dut, stalls, np.random.default_rng(0)
        self.there = SentToPorts(dut)
        self.buffer = np.zeros(4096, np.float32)
        self.map = [0] * MACHINE.map_entries
        self.memory: list[dict[int, int]] = [{} for _ in self.there.writes]
        self.runs: list[tuple[int, int, int]] = []  # port, beat, beats left
        self.answers = 0

    async def tick(self, ctx: SimulatorContext) -> None:
        dut, lanes = self.dut, MACHINE.vector_lanes
        written = 0
        if self.runs and not self.runs[0][2]:
            self.answers += 1
            if self.answers > (self.rng.integers(1, 6) if self.stalls else 2):
                written = 1 << self.runs.pop(0)[0]
                self.answers = 0
        ctx.set(self.there.written, written)
        for port, writes in enumerate(self.there.writes):
            ready = [not self.stalls or bool(self.rng.integers(2)) for _ in range(2)]
            # A run is taken before its beats, of which there are no more than it says.
            wanted = self.runs[0][2] if self.runs and self.runs[0][0] == port else 0
            ready[1] &= wanted > 0
            assert wanted or not ctx.get(writes.beats.valid) or ctx.get(writes.runs.valid)
            ctx.set(writes.runs.ready, ready[0])
            ctx.set(writes.beats.ready, ready[1])
            if ctx.get(writes.runs.valid) and ready[0]:
                assert not self.runs
                self.runs.append((port, ctx.get(writes.runs.payload.beat), ctx.get(writes.runs.payload.count)))
            if ctx.get(writes.beats.valid) and ready[1]:
                to, beat, left = self.runs[0]
                assert to == port
                self.memory[port][beat] = ctx.get(writes.beats.payload.data)
                self.runs[0] = port, beat + 1, left - 1
        address = ctx.get(dut.read.address)
        read = int.from_bytes(self.buffer[address : address + lanes].tobytes(), "little") if ctx.get(dut.read.enable) else 0
        mapped = self.map[ctx.get(dut.map.address) % len(self.map)]
        if ctx.get(dut.map_write_enable):
            self.map[ctx.get(dut.map_write_address)] = ctx.get(dut.map_write_data).place
        await ctx.tick()
        ctx.set(dut.read.data, read)
        ctx.set(dut.map.data, {"place": mapped})


@pytest.mark.parametrize(("stalls", "ports"), [(True, MACHINE.ports), (False, MACHINE.ports), (True, 1), (False, 1)])
def test_layers_of_chunks(stalls: bool, ports: int) -> None:
    dut, rng = KvWriteUnit(dataclasses.replace(MACHINE, ports=ports)), np.random.default_rng(1)
    bench = Bench(dut, stalls)
    places, expected = [0] * ports, {}
    memory: list[dict[int, int]] = [{} for _ in range(ports)]
    outposts = 4 * pipeline.apart(dut.machine)  # 3 cycles more to several ports, one more back

    async def chunk(ctx: SimulatorContext, layer: int, position: int, count: int, looking: int) -> None:
        mask = (1 << count) - 1 if not layer else int(rng.integers(1 << count))
        where, value, cycles = [], [], 0
        for slot in range(count):
            token = position + slot
            port = token % ports
            if mask >> slot & 1:
                heads = random_heads(rng, ENTRY)
                start = (SOURCE + slot * STRIDE) * BUFFER_UNIT
                bench.buffer[start : start + heads.size] = heads.reshape(-1)
                halves, exponents, beats = packed(ENTRY, heads)
                first = (POOL + places[port] * UNITS) * UNIT_BEATS
                memory[port] |= dict(enumerate(beats, first))
                expected[layer, token] = places[port]
                places[port] += 1
                where += [index(0, slot, np.arange(heads.size)), index(1, slot, np.arange(exponents.size))]
                value += [halves.view(np.uint16).reshape(-1), exponents.reshape(-1)]
                per_head = ENTRY.head_beats * MACHINE.kv_lanes // MACHINE.vector_lanes
                # Its turn, formatting, hold, run, beats, answer, map
                cycles += 1 + 2 * ENTRY.kv_heads * per_head + EntryFormatter.DRAIN + ENTRY.header_beats + 1
                cycles += 1 + ENTRY.beats + 3 + outposts + 1
            else:
                expected[layer, token] = expected[layer - 1, token]
                cycles += 3
            where.append(index(2, slot, [0]))
            value.append(np.array([expected[layer, token] << 8 | port]))
        word = KVWRITE.encode({"src": SOURCE, "stride": STRIDE})
        issue = {
            "word": word,
            "mask": mask,
            "position": position,
            "count": count,
            "map_row": layer * CONTEXT,
            "first_layer": not layer,
        }
        ctx.set(dut.instruction, issue)
        await bench.tick(ctx)
        ctx.set(dut.active, 1)
        taken = 0
        while not ctx.get(dut.done):
            assert not ctx.get(dut.pool_full)
            assert not ctx.get(dut.missing)
            await bench.tick(ctx)
            taken += 1
            assert taken < 5000
        assert ctx.get(dut.digest) == signature(np.concatenate(where), np.concatenate([v.astype(np.uint32) for v in value]))
        if not stalls:
            end = 0 if count == MACHINE.tokens else 1
            assert taken == looking + 1 + cycles + end + SIGNATURE
        await bench.tick(ctx)
        ctx.set(dut.active, 0)
        assert ctx.get(dut.entries) == sum(places)

    async def run(ctx: SimulatorContext) -> None:
        for port, setting in (
            (dut.kv_heads, ENTRY.kv_heads),
            (dut.head_dim, ENTRY.head_dim),
            (dut.pool.base, POOL),
            (dut.pool.entry, UNITS),
            (dut.kv_slots, 100),
            (dut.context, CONTEXT),
        ):
            ctx.set(port, setting)
        await ctx.tick().repeat(3)
        found = 0
        for first, counts in ((0, (MACHINE.tokens, 1, 2)), (MACHINE.tokens, (3, 1)), (0, (1,)), (1, (MACHINE.tokens,))):
            ctx.set(dut.first, first)
            ctx.set(dut.restart, 1)
            await bench.tick(ctx)
            ctx.set(dut.restart, 0)
            await bench.tick(ctx)
            given_back = sorted((key for key in expected if key[1] >= first), reverse=True)
            for layer, token in given_back:
                places[token % ports] = expected.pop((layer, token))
            behind = sum(not layer for layer, _ in given_back)
            looking = giving_back(ports, abs(first - found), behind) if first else 0
            position = found = first
            for count in counts:
                for layer in range(3):
                    await chunk(ctx, layer, position, count, 0 if layer else looking + position - found)
                    looking, found = 0, position
                position += count

    simulate(bench.there, run)
    assert bench.memory == memory
    assert {key: bench.map[key[0] * CONTEXT + key[1]] for key in expected} == expected


def test_faults_and_a_write_held_back() -> None:
    dut = KvWriteUnit(MACHINE)
    bench = Bench(dut, False)

    async def run(ctx: SimulatorContext) -> None:
        for port, setting in ((dut.kv_heads, 1), (dut.head_dim, 8), (dut.pool.entry, UNITS), (dut.hold, 1)):
            ctx.set(port, setting)
        await ctx.tick().repeat(3)
        issue = {"word": KVWRITE.encode({"late": 0}), "mask": 1, "count": 1, "first_layer": 1}
        bench.buffer[3] = 1e6  # beyond FP16
        ctx.set(dut.instruction, issue | {"mask": 0})
        ctx.set(dut.active, 1)
        for _ in range(3):
            await bench.tick(ctx)
        assert ctx.get(dut.missing)
        ctx.set(dut.instruction, issue)
        await bench.tick(ctx)
        assert ctx.get(dut.pool_full)
        # Not late without its position: it ends in spite of the hold.
        ctx.set(dut.kv_slots, 1)
        clipped = False
        while not ctx.get(dut.done):
            clipped |= bool(ctx.get(dut.saturated))
            await bench.tick(ctx)
        assert clipped
        assert not ctx.get(dut.pool_full)
        await bench.tick(ctx)
        ctx.set(dut.kv_slots, 2)
        ctx.set(dut.instruction, issue | {"word": KVWRITE.encode({"late": 1}), "position": 3})
        for _ in range(60):
            await bench.tick(ctx)
            assert not ctx.get(dut.done)
            assert not ctx.get(dut.waiting)
        ctx.set(dut.hold, 0)
        while not ctx.get(dut.done):
            await bench.tick(ctx)

    simulate(bench.there, run)


@pytest.mark.parametrize("full", [False, True])
def test_the_last_place_of_the_largest_pool(full: bool) -> None:
    """In the last entry of the largest map; the place behind it is refused."""
    machine = dataclasses.replace(MACHINE, map_entries=LARGEST_MAP)
    dut, context, units = KvWriteUnit(machine), LARGEST_MAP // 8, 3
    bench, token = Bench(dut, False), 3

    async def run(ctx: SimulatorContext) -> None:
        settings = [(dut.kv_heads, 1), (dut.head_dim, 8), (dut.context, context), (dut.kv_slots, LARGEST_MAP)]
        settings += [(dut.pool.base, 1 << 27), (dut.pool.entry, units)]
        for port, setting in settings:
            ctx.set(port, setting)
        await ctx.tick().repeat(3)
        bench.map = [0] * LARGEST_MAP
        issue = {"word": KVWRITE.encode({}), "mask": 1, "count": 1, "position": token, "first_layer": 1}
        for last in (False, True):
            if last:  # a run whose first token has that place
                bench.map[token] = LARGEST_MAP - (not full)
                ctx.set(dut.first, token)
                ctx.set(dut.restart, 1)
                await bench.tick(ctx)
                ctx.set(dut.restart, 0)
                await bench.tick(ctx)
            ctx.set(dut.instruction, issue | {"map_row": LARGEST_MAP - 1 - token if last else 0})
            ctx.set(dut.active, 1)
            for _ in range(200):
                if ctx.get(dut.done) or ctx.get(dut.pool_full):
                    break
                if ctx.get(dut.map_write_enable):
                    seen = ctx.get(dut.map_write_address), ctx.get(dut.map_write_data).place
                    assert seen == ((LARGEST_MAP - 1, LARGEST_MAP - 1) if last else (token, 0))
                await bench.tick(ctx)
            assert ctx.get(dut.pool_full) == (full and last)
            if full and last:
                return
            await bench.tick(ctx)
            ctx.set(dut.active, 0)
        assert ctx.get(dut.entries) == LARGEST_MAP

    simulate(bench.there, run)
    places = [0] if full else [0, LARGEST_MAP - 1]
    beats = KvEntry(1, 8, MACHINE).beats
    firsts = [((1 << 27) + place * units) * UNIT_BEATS for place in places]
    assert sorted(bench.memory[0]) == [first + k for first in firsts for k in range(beats)]
