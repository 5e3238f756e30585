"""What a layer has of its own advances from END to END."""

from __future__ import annotations

import random

from amaranth.sim import SimulatorContext

from hw.control.layers import LayerLoop
from skipopu.isa.registers import Config
from skipopu.isa.spec import LOOP
from skipopu.machine.accepted import LARGEST_MAP
from skipopu.machine.config import Machine
from tests.hw.bench import exercise


def test_the_loop() -> None:
    dut = LayerLoop(Machine.load("mono"))
    layer = dut.layer

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        source = random.Random(5)

        async def pause() -> None:
            while stalls and stalls.random() < 0.3:
                assert not ctx.get(dut.row_start)
                await ctx.tick()

        for layers in (1, 2, 5, 1, 3):
            context, trace, row = source.randrange(1, 5000), source.getrandbits(28), source.randrange(1, 99)
            advance = source.getrandbits(20)
            values = {Config.CONTEXT: context, Config.TRACE: trace, Config.TRACE_ROW: row}
            ctx.set(dut.config, sum(value << 32 * register for register, value in values.items()))
            await pause()
            ctx.set(dut.count, layers)
            ctx.set(dut.advance, advance)
            ctx.set(dut.begin, 1)
            assert (ctx.get(dut.row_start), ctx.get(dut.next_row)) == (1, 0)
            await ctx.tick()
            ctx.set(dut.begin, 0)
            ctx.set(dut.count, source.getrandbits(12))
            ctx.set(dut.advance, source.getrandbits(20))
            for number in range(layers):
                await pause()
                seen = tuple(ctx.get(port) for port in (layer.first, layer.base, layer.map_row, layer.trace_row))
                assert seen == (number == 0, number * advance, number * context, trace + number * row)
                ctx.set(dut.end, 1)
                assert ctx.get(dut.again) == ctx.get(dut.row_start) == (number + 1 < layers)
                assert not ctx.get(dut.again) or ctx.get(dut.next_row) == (number + 1) * context
                await ctx.tick()
                ctx.set(dut.end, 0)
        ctx.set(dut.restart, 1)
        await ctx.tick()
        ctx.set(dut.restart, 0)
        assert (ctx.get(layer.first), ctx.get(layer.base), ctx.get(layer.map_row)) == (1, 0, 0)

    exercise(dut, {}, {}, drive=drive, seeds=range(2))


def test_the_most_layers() -> None:
    """As many as LOOP can say; what a layer has of its own reaches its top bit."""
    dut, layers = LayerLoop(Machine.load("mono")), (1 << LOOP.by_name["count"].width) - 1
    layer = dut.layer
    context, trace, row, advance = LARGEST_MAP // layers, 1 << 31, (1 << 31) // layers, (1 << 32) // layers
    values = {Config.CONTEXT: context, Config.TRACE: trace, Config.TRACE_ROW: row}

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.config, sum(value << 32 * register for register, value in values.items()))
        ctx.set(dut.count, layers)
        ctx.set(dut.advance, advance)
        ctx.set(dut.begin, 1)
        await ctx.tick()
        ctx.set(dut.begin, 0)
        ctx.set(dut.end, 1)
        for number in range(layers):
            assert ctx.get(dut.again) == (number + 1 < layers)
            if number.bit_count() == 1 or number + 1 == layers:
                seen = tuple(ctx.get(port) for port in (layer.first, layer.base, layer.map_row, layer.trace_row))
                assert seen == (0, number * advance, number * context, trace + number * row)
            await ctx.tick()
        ctx.set(dut.end, 0)
        ctx.set(dut.advance, (1 << LOOP.by_name["advance"].width) - 1)
        ctx.set(dut.begin, 1)
        await ctx.tick()
        ctx.set(dut.begin, 0)
        ctx.set(dut.end, 1)
        await ctx.tick()
        assert ctx.get(layer.base) == (1 << LOOP.by_name["advance"].width) - 1

    exercise(dut, {}, {}, drive=drive, seeds=(), patience=2 * layers)
