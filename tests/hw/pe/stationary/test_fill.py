"""Of a product with thresholds the buffers are filled with the beats that are fetched, each at its place among all."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from amaranth.hdl import Array, Const, Elaboratable, Module
from amaranth.sim import SimulatorContext
from numpy.typing import NDArray

from hw.pe.stationary.fill import FillWalk
from hw.pe.stationary.operands import word_lanes
from hw.pe.stationary.tiles import largest
from skipopu.channel_stream import ChannelStream
from skipopu.isa.spec import BLOCK_ROWS, MATMUL, matmul_shape
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics.accumulate import TERMS, terms
from skipopu.numerics.formats import INT4, INT8, Format
from tests.hw.bench import simulation

INNER = 3  # words in front of the activations


class Bench(Elaboratable):
    """The unit beside words of ``active`` channels, bool (words, lanes), which are not known before the unit hears of it."""

    def __init__(self, machine: Machine, active: NDArray[np.bool_]) -> None:
        self.fill = FillWalk(machine)
        self.words = [Const(sum(int(bit) << k for k, bit in enumerate(word)), len(word)) for word in active]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fill = self.fill
        with m.If(self.fill.masks_done):
            m.d.comb += self.fill.active.word.eq(Array(self.words)[self.fill.active.address])
        return m


@pytest.mark.parametrize("ports", [1, 2])
@pytest.mark.parametrize(
    ("weights", "group", "again", "share"),
    [(INT4, 64, 0, 0.4), (INT8, 64, 0, 0.1), (INT4, 256, 0, 0.3), (INT4, 64, 1, 0.4), (INT4, 64, 0, 0.0)],
)
def test_masked_products(ports: int, weights: Format, group: int, again: int, share: float) -> None:
    """Three tiles of three groups; two groups of the first one are leading, where the mask was not known before. Then a product without a mask, and the
    first one again."""
    machine = dataclasses.replace(Machine.load("tiny-masks"), ports=ports, weight_fifo=8 * group)
    full, lanes, groups = machine.channel_slots // (weights.bits // 4), word_lanes(machine), 3
    rows, active = (2 * full + 1) * BLOCK_ROWS * ports, np.random.default_rng(7).random((groups, group)) < share
    words = np.concatenate([np.zeros((INNER, lanes), bool), active.reshape(-1, lanes)])
    dut, source = Bench(machine, words), random.Random(ports)
    fill, stream = dut.fill, ChannelStream(rows, groups, group, ports, machine.weight_lanes, weights)
    seen: list[tuple[str, int]] = []

    def expected(masked: int) -> tuple[list[tuple[str, int]], list[list[int]]]:
        """What is taken, and which of each part's beats it is."""
        taken: list[tuple[str, int]] = []
        places: list[list[int]] = []
        for number, rounds in enumerate(stream.tiles):
            each = stream.channels(rounds)
            for g in range(groups):
                taken += [("scale", k) for k in range(stream.scale_bytes(rounds) // machine.beat_bytes)]
                whole = not masked or (number == 0 and g < (0 if again else 2))
                for part in (active[g].reshape(-1, each).any(1) | whole).reshape(-1, min(terms(weights), group) // each):
                    places.append(np.flatnonzero(part).tolist())
                    taken += [("code", k) for k in range(len(places[-1]))]
        return taken, places

    async def beats(ctx: SimulatorContext) -> None:
        """Of all ports alike: ``level`` are there."""
        level = 0
        while True:
            ctx.set(fill.ready, (1 << ports) - 1 if level else 0)
            ctx.set(fill.behind, (1 << ports) - 1 if level > 1 else 0)
            if pipeline.told(machine):
                ctx.set(fill.further, (1 << ports) - 1 if level > 2 else 0)
            _, _, told, taking = await ctx.tick().sample(fill.fill, fill.taking_ports)
            kind = next((name for name in ("scale", "zero", "code") if told[name]), None)
            if kind:
                assert level
                assert taking == (1 << ports) - 1
                address = int(told["address"])
                seen.append((kind, address % (TERMS if kind == "code" else largest(machine, "scale"))))
                level -= 1
            level += source.choice((0, 1, 1, 2)) if level < 8 else 0

    async def drive(ctx: SimulatorContext) -> None:
        word = MATMUL.encode({**matmul_shape(rows, ports), "groups": groups, "format": weights.code, "source": 1})
        for signal, value in ((fill.group, group), (fill.inner, INNER * lanes), (fill.format, weights.code)):
            ctx.set(signal, value)
        for masked in (1, 0, 1):
            await product(ctx, {"word": word, "mask": 1, "masked": masked, "again": masked & again})

    async def product(ctx: SimulatorContext, instruction: dict[str, int]) -> None:
        taken, places = expected(instruction["masked"])
        parts: list[list[int]] = []
        seen.clear()
        ctx.set(fill.instruction, instruction)
        ctx.set(fill.masks_done, 0)
        await ctx.tick().repeat(3)
        ctx.set(fill.start, 1)
        await ctx.tick()
        ctx.set(fill.start, 0)
        await ctx.tick().repeat(25)
        assert not seen  # nothing is taken before it is known what is active
        ctx.set(fill.masks_done, 1)
        half = 0
        for _ in places:
            while not ctx.get(fill.complete) >> half & 1:
                await ctx.tick()
            await ctx.tick().repeat(source.randrange(1, 6))
            ctx.set(fill.half, half)
            found = []
            for beat in range(ctx.get(fill.filled[half])):
                ctx.set(fill.beat, beat)
                found.append(ctx.get(fill.place))
            parts.append(found)
            ctx.set(fill.freed, 1 << half)
            await ctx.tick()
            ctx.set(fill.freed, 0)
            half ^= 1
        await ctx.tick().repeat(10)
        assert not ctx.get(fill.taking)
        assert parts == places
        assert seen == taken

    simulator = simulation(dut)
    simulator.add_testbench(drive)
    simulator.add_testbench(beats, background=True)
    simulator.run()
