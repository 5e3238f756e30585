"""Formatted entries are the bytes of the memory's layout, and take the promised cycles."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import SimulatorContext
from numpy.typing import NDArray

from hw.kv.format import EntryFormatter
from skipopu.layout import KvEntry
from skipopu.machine.accepted import LARGEST_BUFFER
from skipopu.machine.config import Machine
from skipopu.numerics import fp16
from tests.hw.kv.support import LARGEST, set_heads, simulate

Floats = NDArray[np.float32]


def random_heads(rng: np.random.Generator, entry: KvEntry) -> Floats:
    """(2, kv_heads, head_dim) float32: K and V, zeros and subnormal FP16 numbers among them."""
    shape = (2, entry.kv_heads, entry.head_dim)
    values = rng.normal(0, 1, shape) * 2.0 ** rng.integers(-30, 14, shape)
    return (values * (rng.random(shape) < 0.9)).astype(np.float32)


def packed(entry: KvEntry, heads: Floats) -> tuple[NDArray[np.float16], NDArray[np.int64], list[int]]:
    """FP16 patterns (2, kv_heads, head_dim), exponents (kv_heads, 2), and the entry's beats."""
    halves = fp16.from_fp32(heads)
    exponents = fp16.exponent_field(halves).max(-1).T
    data = entry.pack(halves[0], halves[1], exponents).reshape(-1, entry.machine.beat_bytes)
    return halves, exponents, [int.from_bytes(beat.tobytes(), "little") for beat in data]


def word(values: Floats, address: int, lanes: int) -> int:
    """Buffer word at element ``address`` of flat ``values``; rubbish beyond them."""
    part = np.full(lanes, np.nan, np.float32)
    if 0 <= address < values.size:
        part = values.reshape(-1)[address : address + lanes]
    return int.from_bytes(part.tobytes(), "little")


@pytest.mark.parametrize(
    ("machine", "kv_heads", "dim"),
    [
        (Machine.load("mono"), 2, 10),
        (Machine.load("tiny"), 3, 20),
        (Machine.load("trio"), 2, 8),
        (Machine.load("ulx3s"), 1, 8),
        (LARGEST, 64, 8),
        (LARGEST, 1, 256),
    ],
    ids=lambda value: value.name if isinstance(value, Machine) else str(value),
)
def test_against_the_layout(machine: Machine, kv_heads: int, dim: int) -> None:
    dut, rng, entry = EntryFormatter(machine), np.random.default_rng(0), KvEntry(kv_heads, dim, machine)
    lanes, source = machine.vector_lanes, LARGEST_BUFFER - 2 * kv_heads * dim

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, entry)
        ctx.set(dut.restart, 1)
        await ctx.tick()
        ctx.set(dut.restart, 0)
        ctx.set(dut.source, source)
        for _ in range(2):
            heads = random_heads(rng, entry)
            halves, exponents, beats = packed(entry, heads)
            ctx.set(dut.start, 1)
            elements: dict[int, int] = {}
            seen: dict[int, int] = {}
            cycles, done = 0, False
            while not done:
                done = bool(ctx.get(dut.done))
                if ctx.get(dut.valid):
                    for k in range(lanes):
                        elements[ctx.get(dut.element) + k] = ctx.get(dut.halves) >> 16 * k & 0xFFFF
                if ctx.get(dut.exponent_valid):
                    seen[ctx.get(dut.exponent_number)] = ctx.get(dut.exponent)
                assert not ctx.get(dut.saturated)
                read = word(heads, ctx.get(dut.read.address) - source, lanes) if ctx.get(dut.read.enable) else 0
                await ctx.tick()
                ctx.set(dut.read.data, read)
                ctx.set(dut.start, 0)
                cycles += 1
            per_head = entry.head_beats * machine.kv_lanes // lanes
            assert cycles == 1 + 2 * kv_heads * per_head + EntryFormatter.DRAIN + entry.header_beats
            assert elements == dict(enumerate(halves.view(np.uint16).reshape(-1).tolist()))
            assert seen == {2 * h + v: exponents[h, v] for h in range(kv_heads) for v in (0, 1)}
            assert ctx.get(dut.beats) == entry.beats
            for number in range(entry.beats):
                ctx.set(dut.staged.address, number)
                await ctx.tick()
                assert ctx.get(dut.staged.data) == beats[number], number

    simulate(dut, bench)


def test_saturation_is_told() -> None:
    machine = Machine.load("tiny")
    dut, entry, told = EntryFormatter(machine), KvEntry(1, 8, machine), []

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, entry)
        ctx.set(dut.read.data, word(np.full(machine.vector_lanes, 1e6, np.float32), 0, machine.vector_lanes))
        ctx.set(dut.start, 1)
        while not ctx.get(dut.done):
            told.append(ctx.get(dut.saturated))
            await ctx.tick()
            ctx.set(dut.start, 0)

    simulate(dut, bench)
    assert sum(told) == 2 * entry.head_dim // machine.vector_lanes
