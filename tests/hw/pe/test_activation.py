"""The aligned memory against arrays: mantissas at their element, exponents at their group's first word."""

from __future__ import annotations

import dataclasses
import random

import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.pe.activation import AlignedMemory
from hw.widths import ELEMENT_BITS
from skipopu.machine.accepted import LARGEST_BUFFER
from skipopu.machine.config import Machine
from skipopu.numerics.align import ALIGNED_BITS

MACHINE = Machine.load("tiny")


@pytest.mark.parametrize("lanes", [MACHINE.vector_lanes, MACHINE.weight_lanes])
def test_writes_and_reads(lanes: int) -> None:
    """Writes beyond a slot change nothing and are reported; a read returns what was written until the cycle before."""
    elements, vector, group = 8 * lanes, MACHINE.vector_lanes, 4 * lanes
    dut, source = AlignedMemory(MACHINE, elements, lanes), random.Random(4)
    assert not hasattr(dut, "sum")
    mantissas = [[0] * elements for _ in range(MACHINE.tokens)]
    exponents = [[0] * (elements // lanes) for _ in range(MACHINE.tokens)]

    async def bench(ctx: SimulatorContext) -> None:
        for _ in range(600):
            slot, enable = source.randrange(MACHINE.tokens), source.random() < 0.8
            element, exponent = vector * source.randrange(elements // vector + 2), source.getrandbits(8)
            values = [source.getrandbits(ALIGNED_BITS) for _ in range(vector)]
            ctx.set(dut.write_slot, slot)
            ctx.set(dut.write_element, element)
            ctx.set(dut.write_offset, element % group)
            ctx.set(dut.write_data, sum(v << ALIGNED_BITS * k for k, v in enumerate(values)))
            ctx.set(dut.write_exponent, exponent)
            ctx.set(dut.write_enable, enable)
            token, word = source.randrange(MACHINE.tokens), source.randrange(elements // lanes)
            first = word * lanes // group * group // lanes
            ctx.set(dut.read_slot, token)
            ctx.set(dut.read_word, word)
            ctx.set(dut.read_group, first)
            row = mantissas[token][word * lanes : (word + 1) * lanes]
            expected = sum(v << ALIGNED_BITS * k for k, v in enumerate(row)), exponents[token][first]
            assert ctx.get(dut.range) == (enable and element >= elements)
            if enable and element < elements:
                mantissas[slot][element : element + vector] = values
                if element % group == 0:
                    exponents[slot][element // lanes] = exponent
            await ctx.tick()
            assert (ctx.get(dut.data), ctx.get(dut.exponent)) == expected

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def test_sums() -> None:
    """Groups one behind the other, of several slots, with pauses: their sums are those of all their mantissas."""
    lanes, vector, group = MACHINE.weight_lanes, MACHINE.vector_lanes, 2 * MACHINE.weight_lanes
    elements = 6 * lanes
    dut, source = AlignedMemory(MACHINE, elements, lanes, True), random.Random(5)
    limit = (1 << ALIGNED_BITS - 1) - 1
    sums: dict[tuple[int, int], int] = {}

    async def bench(ctx: SimulatorContext) -> None:
        for _ in range(40):
            slot, first = source.randrange(MACHINE.tokens), group * source.randrange(elements // group + 1)
            values = [source.choice((-limit, limit, source.randint(-limit, limit))) for _ in range(group)]
            for offset in range(0, group, vector):
                while source.random() < 0.3:
                    ctx.set(dut.write_enable, 0)
                    await ctx.tick()
                word = values[offset : offset + vector]
                ctx.set(dut.write_enable, 1)
                ctx.set(dut.write_slot, slot)
                ctx.set(dut.write_element, first + offset)
                ctx.set(dut.write_offset, offset)
                ctx.set(dut.write_data, sum((v & (1 << ALIGNED_BITS) - 1) << ALIGNED_BITS * k for k, v in enumerate(word)))
                await ctx.tick()
            if first < elements:
                sums[slot, first // lanes] = sum(values)
            ctx.set(dut.write_enable, 0)
            # The last word's write is behind us; a read begins in the first cycle in which the sum is there.
            await ctx.tick().repeat(AlignedMemory.summed(MACHINE) - 1)
            (token, word), total = source.choice(list(sums.items()))
            if (slot, first // lanes) in sums and source.random() < 0.5:
                token, word, total = slot, first // lanes, sums[slot, first // lanes]
            ctx.set(dut.read_slot, token)
            ctx.set(dut.read_group, word)
            await ctx.tick()
            assert ctx.get(dut.sum) == total

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def test_the_end_of_the_largest_memory() -> None:
    """Of its last slot, and of the one before; what lies behind a slot is refused."""
    lanes, vector, tokens = MACHINE.weight_lanes, MACHINE.vector_lanes, 2
    dut = AlignedMemory(dataclasses.replace(MACHINE, tokens=tokens), LARGEST_BUFFER, lanes)
    words = LARGEST_BUFFER // lanes

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.write_enable, 1)
        for slot in range(tokens):
            ctx.set(dut.write_slot, slot)
            for element in range(LARGEST_BUFFER - lanes, LARGEST_BUFFER, vector):
                ctx.set(dut.write_element, element)
                ctx.set(dut.write_offset, element - (LARGEST_BUFFER - lanes))
                ctx.set(dut.write_data, element % lanes + 1)
                ctx.set(dut.write_exponent, 200 + slot)
                assert not ctx.get(dut.range)
                await ctx.tick()
            for element in (LARGEST_BUFFER, LARGEST_BUFFER + vector, (1 << ELEMENT_BITS) - vector):
                ctx.set(dut.write_element, element)
                ctx.set(dut.write_offset, 0)
                assert ctx.get(dut.range)
                await ctx.tick()
        expected = sum(element + 1 << ALIGNED_BITS * element for element in range(0, lanes, vector))
        for slot in range(tokens):
            for word in (0, words - 1):
                ctx.set(dut.read_slot, slot)
                ctx.set(dut.read_word, word)
                ctx.set(dut.read_group, word)
                await ctx.tick()
                assert (ctx.get(dut.data), ctx.get(dut.exponent)) == ((expected, 200 + slot) if word else (0, 0))

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
