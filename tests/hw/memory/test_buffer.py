"""The buffer against an array: three readers, three writers by priority, what lies beyond it."""

from __future__ import annotations

import dataclasses
import random

import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.memory.buffer import READERS, Buffer
from hw.widths import ELEMENT_BITS
from skipopu.isa.spec import Unit
from skipopu.machine.accepted import LARGEST_BUFFER
from skipopu.machine.config import Machine

MACHINE = Machine.load("tiny")
LANES = MACHINE.vector_lanes
WORDS = 16  # that are used


def test_reads_and_writes() -> None:
    """A read returns what was written until the cycle before, and stands until the next; a fault is its unit's."""
    dut, source = Buffer(MACHINE), random.Random(2)
    model = [0] * WORDS * LANES
    writers = {Unit.ARRAY: dut.array, Unit.ATTENTION: dut.attention, Unit.VECTOR: dut.vector}
    waited = 0

    def address(base: int) -> int:
        return base + (MACHINE.buffer if source.random() < 0.1 else 0)

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal waited
        shown: list[int | None] = [None] * len(READERS)
        waiting: dict | None = None  # the vector unit's word
        for _ in range(800):
            beyond = 0
            first = source.choice([None, Unit.ARRAY, Unit.ATTENTION])
            words = {}
            for unit in (first, Unit.VECTOR):
                if unit is not None and (unit is not Unit.VECTOR or waiting or source.random() < 0.5):
                    words[unit] = (unit is Unit.VECTOR and waiting) or {
                        "address": address(source.randrange(WORDS * LANES)),
                        "data": source.getrandbits(32 * LANES),
                        "enable": source.getrandbits(LANES),
                        "slot": source.randrange(MACHINE.tokens),
                    }
            for unit, port in writers.items():
                ctx.set(port.valid, unit in words)
                if unit in words:
                    ctx.set(port.payload, words[unit])
            for k, (unit, read) in enumerate(zip(READERS, dut.reads, strict=True)):
                enable, where = source.random() < 0.7, address(source.randrange(WORDS * LANES))
                ctx.set(read.enable, enable)
                ctx.set(read.address, where)
                if enable:
                    inside = where < MACHINE.buffer
                    beyond |= 0 if inside else 1 << unit
                    word = where // LANES * LANES
                    shown[k] = sum(v << 32 * i for i, v in enumerate(model[word : word + LANES])) if inside else None
            assert ctx.get(dut.written_valid) == bool(words)
            waiting = None
            if words:
                unit = next(iter(words))
                word = words[unit]
                assert ctx.get(dut.written_by) == unit
                assert ctx.get(dut.written.as_value()) == ctx.get(writers[unit].payload.as_value())
                assert [ctx.get(port.ready) for port in writers.values()] == [w is unit for w in writers]
                if unit is not Unit.VECTOR and Unit.VECTOR in words:
                    waiting, waited = words[Unit.VECTOR], waited + 1
                if word["address"] >= MACHINE.buffer:
                    beyond |= 1 << unit
                else:
                    for k in range(LANES):
                        if word["enable"] >> k & 1:
                            model[word["address"] // LANES * LANES + k] = word["data"] >> 32 * k & 0xFFFF_FFFF
            assert ctx.get(dut.range) == beyond
            await ctx.tick()
            for read, value in zip(dut.reads, shown, strict=True):
                assert value is None or ctx.get(read.data) == value

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    assert waited > 50


@pytest.mark.parametrize("size", [MACHINE.buffer, LARGEST_BUFFER])
def test_the_last_element_and_the_one_behind_it(size: int) -> None:
    dut = Buffer(dataclasses.replace(MACHINE, buffer=size))
    writers = ((Unit.ARRAY, dut.array), (Unit.ATTENTION, dut.attention), (Unit.VECTOR, dut.vector))

    async def bench(ctx: SimulatorContext) -> None:
        for address, beyond in ((size - 1, 0), (size, 1), (size + LANES, 1), ((1 << ELEMENT_BITS) - 1, 1)):
            for unit, read in zip(READERS, dut.reads, strict=True):
                ctx.set(read.address, address)
                ctx.set(read.enable, 1)
                assert ctx.get(dut.range) == beyond << unit
                ctx.set(read.enable, 0)
            for unit, port in writers:
                ctx.set(port.payload.address, address)
                ctx.set(port.valid, 1)
                assert ctx.get(dut.range) == beyond << unit
                ctx.set(port.valid, 0)

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
