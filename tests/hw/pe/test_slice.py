"""Sequencer and slice as a streaming unit: right with random pauses, and without pauses one group per cycle."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Cat, Elaboratable, Module, Signal
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator

from hw.arithmetic.pipeline import delay
from hw.pe.activation import MANTISSA_SUM_BITS
from hw.pe.sequencer import Sequencer
from hw.pe.slice import Slice
from skipopu.isa.spec import MATMUL, matmul_shape
from skipopu.layout import WeightStream
from skipopu.machine.config import Machine
from skipopu.numerics import align, fp32
from skipopu.numerics.align import ALIGNED_BITS
from skipopu.numerics.formats import BY_NAME, FORMATS, Format
from skipopu.numerics.profile import PROFILES
from tests.support import random_codes

LANES = 16
MACHINE = Machine("bench", 1, 4 * LANES, 4, 2, 1024, 64 * LANES, 64, 64, 64, weight_fifo=8, burst=4, formats=tuple(BY_NAME))


class Bench(Elaboratable):
    """One slice behind its sequencer; activations come from a memory of whole groups, a drained bank is free at once."""

    def __init__(self, activations: list[int], exponents: list[int], sums: list[int]) -> None:
        self.sequencer, self.slice = Sequencer(MACHINE), Slice(MACHINE)
        self.activations, self.exponents, self.sums = activations, exponents, sums
        self.groups = Signal(8)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sequencer, unit = self.sequencer, self.slice
        m.submodules.sequencer, m.submodules.slice = sequencer, unit
        width = ALIGNED_BITS * LANES
        mask = (1 << MANTISSA_SUM_BITS) - 1
        words = zip(self.activations, self.exponents, self.sums, strict=True)
        rows = [a | e << width | (s & mask) << width + 8 for a, e, s in words]
        m.submodules.memory = memory = Memory(shape=width + 8 + MANTISSA_SUM_BITS, depth=len(rows), init=rows)
        read = memory.read_port()
        bus = delay(m, read.data, 1, "bus")
        m.d.comb += [
            read.addr.eq(sequencer.activation_slot * self.groups + sequencer.activation_word),
            Cat(unit.activation, unit.exponent, unit.sum).eq(bus),
            sequencer.slot.eq(sequencer.token),
            sequencer.weights_ready.eq(unit.beats.valid),
            unit.take.eq(sequencer.take),
            unit.taking.eq(sequencer.taking_ports[0]),
            unit.format.eq(sequencer.format),
            unit.step.eq(sequencer.step),
            unit.active.eq(sequencer.active_ports[0]),
            sequencer.drained.eq(sequencer.round_done),
            sequencer.drained_bank.eq(sequencer.round_bank),
        ]
        return m


@pytest.mark.parametrize("pauses", [0.0, 0.4])
@pytest.mark.parametrize("tokens", [1, 2, 4])
@pytest.mark.parametrize("weights", FORMATS)
def test_streams_one_group_per_cycle(weights: Format, tokens: int, pauses: float) -> None:
    rng = np.random.default_rng(tokens)
    groups, rows, group = 9, 16, LANES
    x = (rng.standard_normal((tokens, groups * group)) * 2.0 ** rng.integers(-9, 9, groups * group)).astype(np.float32)
    m, exponent = align.align(x, group)
    q = random_codes(weights, rng, (rows, groups, group))
    scale = (rng.random((rows, groups)) * rng.choice([-1, 1, 1e-6], (rows, groups))).astype(np.float16)
    stream = WeightStream(rows, groups, group, 1, LANES, weights)
    beats = stream.pack(q, scale)[0][: stream.port_bytes(0)].reshape(-1, LANES // 2)
    mask = (1 << ALIGNED_BITS) - 1
    memory = [
        sum((int(v) & mask) << ALIGNED_BITS * i for i, v in enumerate(m[t, g])) for t in range(tokens) for g in range(groups)
    ]
    dut = Bench(memory, exponent.reshape(-1).tolist(), m.sum(-1).astype(int).reshape(-1).tolist())
    shape = {**matmul_shape(rows, 1), "groups": groups, "format": weights.code}
    seen: dict[tuple[int, int], int] = {}
    busy = {"cycles": 0, "steps": 0, "drained": 0}

    async def feed(ctx) -> None:
        position, valid = 0, False
        unit, sequencer = dut.slice, dut.sequencer
        ctx.set(sequencer.instruction.word, MATMUL.encode(shape))
        ctx.set(sequencer.group, group)
        ctx.set(dut.groups, groups)
        ctx.set(sequencer.token_count, tokens)
        ctx.set(sequencer.start, 1)
        await ctx.tick()
        ctx.set(sequencer.start, 0)
        first = None
        for cycle in range(6000):
            valid = position < len(beats) and (valid or rng.random() >= pauses)
            ctx.set(unit.beats.valid, valid)
            if valid:
                ctx.set(unit.beats.payload, int.from_bytes(beats[position].tobytes(), "little"))
            taken = bool(valid and ctx.get(unit.beats.ready))
            if taken and first is None:
                first = cycle
            busy["steps"] += ctx.get(sequencer.streaming)
            if ctx.get(sequencer.streaming):
                busy["cycles"] = cycle + 1 - (first or 0)
            done = ctx.get(sequencer.round_done)
            await ctx.tick()
            if taken:
                position, valid = position + 1, False
            if done:
                busy["drained"] += 1
                if busy["drained"] == rows // 8:
                    return

    async def drain(ctx) -> None:
        """Reads a bank as soon as its round is done."""
        number = 0
        while number < rows // 8:
            done, bank = ctx.get(dut.sequencer.round_done), ctx.get(dut.sequencer.round_bank)
            await ctx.tick()
            if not done:
                continue
            for pair in range(4):
                for token in range(tokens):
                    ctx.set(dut.slice.drain_address, token | pair << 2 | bank << 4)
                    await ctx.tick()
                    seen[8 * number + 2 * pair, token] = ctx.get(dut.slice.drain_even)
                    seen[8 * number + 2 * pair + 1, token] = ctx.get(dut.slice.drain_odd)
            number += 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(feed)
    simulator.add_testbench(drain)
    simulator.run()
    profile = PROFILES["exact18"]
    parts = [profile.group_products(m[:, g], exponent[:, g], q[:, g], scale[:, g]) for g in range(groups)]
    total = parts[0]
    for part in parts[1:]:
        total = fp32.add(total, part)
    assert np.array([[seen[r, t] for r in range(rows)] for t in range(tokens)]).tolist() == fp32.bits(total).tolist()
    pairs = rows * groups * weights.bits // 8
    assert busy["steps"] == pairs * tokens
    if not pauses:
        words = -(-rows * groups // weights.scales_per_word)
        scale_beats = words * 64 // (LANES // 2)
        # One beat per cycle while memory is the limit, one step per cycle while tokens are; scale words come ahead of pairs.
        expected = 2 * pairs + scale_beats if tokens <= 2 else pairs * tokens + scale_beats + 2
        assert busy["cycles"] <= expected + tokens + 1, (busy, expected)
