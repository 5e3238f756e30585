"""ATTEND on its tiles, memory and map against the functional engine's attention, bit for bit."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, Module
from amaranth.sim import SimulatorContext

from hw.arithmetic.pipeline import delay
from hw.kv.attention import AttentionUnit
from hw.kv.query import QueryWrites
from hw.kv.stationary.attention import HeldAttention
from hw.pe.stationary.lanes import Lanes
from hw.pe.stationary.slice import StationarySlice
from hw.pe.tile import Tile
from sim.functional.attention import attend
from skipopu.isa.spec import ATTEND, BUFFER_UNIT
from skipopu.layout import KvEntry, buffer_stride
from skipopu.machine.config import Machine
from skipopu.machine.pipeline import OPERANDS
from skipopu.numerics import align, fp16, fp32, soft_cap
from tests.hw.kv.support import BuiltLibrary, joined, simulate
from tests.hw.kv.test_format import packed

MAP_ROW, POOL, DESTINATION = 8, 4, 3
WRITTEN = 100  # cycles until the instruction's own entries are written


class Attention(Elaboratable):
    """The unit and its tiles, connected as the overlay does."""

    def __init__(self, machine: Machine) -> None:
        self.tiles = [Tile(machine) for _ in range(machine.ports)]
        self.unit = (HeldAttention if machine.stationary else AttentionUnit)(machine, self.tiles, BuiltLibrary())

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = self.unit
        operands = delay(m, self.unit.query, OPERANDS - 1, "operands")
        for p, tile in enumerate(self.tiles):
            m.submodules[f"tile_{p}"] = tile
            m.d.comb += tile.slice.activation.eq(operands)
            if isinstance(tile.inner_slice, StationarySlice):
                m.d.comb += [tile.slice.step.eq(self.unit.beat), tile.slice.sum.adds.eq(-1)]
                m.d.comb += tile.slice.sum.lane.eq(Lanes.first_of(tile.inner_slice.machine, self.unit.lane))
        return m


class Bench:
    """Loaders of all ports, the map, and the words that come."""

    def __init__(self, machine: Machine, unit: AttentionUnit, stalls: bool) -> None:
        self.machine, self.unit, self.stalls, self.rng = machine, unit, stalls, np.random.default_rng(0)
        self.memory: list[dict[int, int]] = [{} for _ in range(machine.ports)]
        self.map = [0] * machine.map_entries
        self.flight: list[deque[int]] = [deque() for _ in range(machine.ports)]
        self.fifo: list[deque[int]] = [deque() for _ in range(machine.ports)]
        self.words: dict[int, int] = {}
        self.hits = self.cycle = 0

    async def tick(self, ctx: SimulatorContext) -> None:
        unit, lanes = self.unit, self.machine.vector_lanes
        for port, loader in enumerate(unit.loaders):
            if ctx.get(loader.beats.ready) and self.fifo[port]:
                self.fifo[port].popleft()
            ready = not self.stalls or bool(self.rng.integers(2))
            ctx.set(loader.runs.ready, ready)
            if ctx.get(loader.runs.valid) and ready:
                run = ctx.get(loader.runs.payload)
                self.flight[port] += range(run.beat, run.beat + run.count)
        if ctx.get(unit.words.valid):
            word = ctx.get(unit.words.payload)
            for k in range(lanes):
                assert word.address + k not in self.words
                self.words[word.address + k] = word.data >> 32 * k & 0xFFFFFFFF
        self.hits += ctx.get(unit.hits)
        mapped = self.map[ctx.get(unit.map.address) % len(self.map)]
        await ctx.tick()
        self.cycle += 1
        ctx.set(unit.map.data, {"place": mapped})
        for port, loader in enumerate(unit.loaders):
            come = len(self.fifo[port]) < self.machine.kv_fifo and (not self.stalls or self.rng.random() < 0.6)
            if self.flight[port] and come:
                self.fifo[port].append(self.memory[port].get(self.flight[port].popleft(), 0))
            ctx.set(loader.level, len(self.fifo[port]))
            ctx.set(loader.beats.valid, bool(self.fifo[port]))
            ctx.set(loader.beats.payload, self.fifo[port][0] if self.fifo[port] else 0)


@pytest.mark.parametrize(
    ("target", "stalls", "position", "window", "changes", "cap"),
    [
        ("mono", False, 3, 0, {}, 0),
        ("tiny", True, 3, 0, {}, 0),
        ("tiny", True, 16, 8, {}, 0),
        ("tiny", True, 16, 8, {}, 3),
        ("tiny", False, 13, 3, {}, 0),
        ("tiny", False, 5, 12, {"ports": 3}, 0),
        ("tiny", False, 5, 12, {"ports": 3}, 0.5),
        ("tiny", True, 14, 1, {"ports": 3}, 0),
        ("tiny", True, 9, 4, {"tokens": 1}, 0),
        ("tiny", False, 3, 0, {"query_group": 16}, 0),
        ("tiny-masks", True, 3, 0, {}, 0),
        ("tiny-masks", True, 16, 8, {}, 3),
        ("tiny-masks", False, 40, 0, {}, 0),
        ("tiny-masks", False, 13, 3, {}, 0),
        ("tiny-masks", True, 29, 0, {"ports": 3}, 0.5),
        ("tiny-masks", True, 9, 4, {"tokens": 1}, 0),
        ("tiny-masks", False, 23, 0, {"tokens": 1, "ports": 1}, 0),
        ("tiny-masks", False, 3, 0, {"query_group": 16}, 0),
    ],
)
def test_against_the_functional_engine(
    target: str, stalls: bool, position: int, window: int, changes: dict[str, Any], cap: float
) -> None:
    machine = dataclasses.replace(Machine.load(target), **changes)
    factor = soft_cap.factor(cap)
    dut, rng = Attention(machine), np.random.default_rng(0)
    unit, heads, dim = dut.unit, 2, machine.kv_lanes + machine.vector_lanes
    group = changes.get("query_group", 1 + (not stalls))
    bench, entry = Bench(machine, unit, stalls), KvEntry(heads, dim, machine)
    tokens = position + machine.tokens
    slots = np.array([s for s in range(machine.tokens) if s != 1])
    keys_values = (rng.normal(0, 1, (tokens, 2, heads, dim)) * 4).astype(np.float32)
    fields = np.zeros((tokens, heads, 2), np.int64)
    aligned = np.zeros((2, tokens, heads, dim))
    places: list[int] = []
    for token in range(tokens):
        halves, fields[token], beats = packed(entry, keys_values[token])
        port, place = token % machine.ports, int(3 * (token // machine.ports) + 1)
        places.append(place)
        if token < position:
            bench.map[MAP_ROW + token] = place
        first = (POOL + place * (entry.size // 64)) * (64 // machine.beat_bytes)
        bench.memory[port] |= dict(enumerate(beats, first))
        for v in (0, 1):
            aligned[v, token] = fp16.align(halves[v], fields[token, :, v, None])
    queries = rng.normal(0, 1, (machine.tokens, heads * group, dim)).astype(np.float32)
    padded = entry.head_beats * machine.kv_lanes
    mantissas, exponents = align.align(queries, padded)
    expected = attend(
        mantissas[slots, ..., 0, :dim].reshape(len(slots), heads, group, dim),
        exponents[slots, ..., 0].reshape(len(slots), heads, group),
        aligned[0],
        fields[..., 0],
        aligned[1],
        fields[..., 1],
        position + slots + 1,
        np.maximum(position + slots + 1 - window, 0) if window else 0,
        factor,
    ).reshape(len(slots), -1)
    stride = buffer_stride(heads * group * dim) // BUFFER_UNIT

    async def write_queries(ctx: SimulatorContext) -> None:
        vector, writes = machine.vector_lanes, unit.writes
        words = [(s, h, o) for s in range(machine.tokens) for h in range(heads * group) for o in range(0, padded, vector)]
        nothing = [None] * QueryWrites.WRITE
        for ahead, now in zip([*words, *nothing], [*nothing, *words], strict=True):
            ctx.set(writes.head_slot, ahead[0] if ahead else 0)
            ctx.set(writes.head_end, bool(ahead) and ahead[2] == padded - vector)
            ctx.set(writes.write_enable, bool(now))
            if now:
                slot, head, offset = now
                ctx.set(writes.write_offset, offset)
                part = mantissas[slot, head, 0, offset : offset + vector]
                ctx.set(writes.write_data, joined(part, align.ALIGNED_BITS))
                ctx.set(writes.write_exponent, int(exponents[slot, head, 0]))
            await ctx.tick()
        ctx.set(writes.write_enable, 0)

    async def run(ctx: SimulatorContext) -> None:
        for port, value in (
            (unit.kv_heads, heads),
            (unit.query_group, group),
            (unit.head_dim, dim),
            (unit.pool.base, POOL),
            (unit.pool.entry, entry.size // 64),
            (unit.layer.history, machine.history_slots),
            (unit.restart, 1),
            *([(unit.soft_cap, int(fp32.bits(factor)))] if machine.soft_cap else []),
        ):
            ctx.set(port, value)
        await ctx.tick()
        ctx.set(unit.restart, 0)
        await ctx.tick().repeat(3 + 2 * machine.history_slots)
        await write_queries(ctx)
        issue = {
            "word": ATTEND.encode({"dst": DESTINATION, "stride": stride}),
            "mask": sum(1 << int(s) for s in slots),
            "position": position,
            "map_row": MAP_ROW,
            **({"window": window} if machine.window else {}),
        }
        ctx.set(unit.instruction, issue)
        for again in range(2 if machine.history else 1):  # the second time the history buffer holds what it can
            bench.words.clear()
            bench.hits = 0
            ctx.set(unit.active, 1)
            while not ctx.get(unit.done):
                await bench.tick(ctx)
                if bench.cycle == WRITTEN:  # KVWRITE ends after its last write to the map
                    bench.map[MAP_ROW : MAP_ROW + tokens] = places
                ctx.set(unit.unwritten, bench.cycle < WRITTEN + 2)
                assert bench.cycle < 6000
            await bench.tick(ctx)
            ctx.set(unit.active, 0)
            seen = np.zeros_like(expected, dtype=np.uint32)
            for row, slot in enumerate(slots):
                first = (DESTINATION + slot * stride) * BUFFER_UNIT
                seen[row] = [bench.words.pop(first + k) for k in range(seen.shape[1])]
            assert not bench.words
            assert (seen == fp32.bits(expected)).all()
            read = tokens - (max(0, position + 1 - window) if window else 0)
            assert bench.hits == (read * entry.beats if again else 0)
            assert not ctx.get(unit.saturated)

    simulate(dut, run)
