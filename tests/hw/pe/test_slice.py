"""Sequencer and slice as a streaming unit: right with random pauses, and without pauses one group per cycle."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from amaranth.hdl import Cat, Elaboratable, Module, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import connect
from amaranth.sim import Simulator

from hw.arithmetic.pipeline import delay
from hw.memory.places import BeatPlaces
from hw.pe.activation import MANTISSA_SUM_BITS
from hw.pe.sequencer import Sequencer
from hw.pe.slice import Slice
from hw.pe.spread import Spread
from skipopu.isa.spec import MATMUL, matmul_shape
from skipopu.layout import WeightStream
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_GROUP
from skipopu.machine.pipeline import OPERANDS
from skipopu.numerics import align, fp32
from skipopu.numerics.align import ALIGNED_BITS
from skipopu.numerics.formats import BY_NAME, FORMATS, INT4Z, INT8, Format, padded
from skipopu.numerics.profile import PROFILES
from tests.support import random_codes

LANES, DEPTH = 16, 4  # DEPTH: beats that wait in front of the slice
MACHINE = Machine("bench", 1, 4 * LANES, 4, 2, 1024, 64 * LANES, 64, 64, 64, weight_fifo=8, burst=4, formats=tuple(BY_NAME))
SHORT = dataclasses.replace(MACHINE, port_bits=128, activation=1024, short_groups=True)


class Bench(Elaboratable):
    """One slice behind its sequencer; activations come from a memory of words, exponents and sums from one of groups, a drained bank is
    free at once. ``apart``: places from a group to the next; ``tokens`` have as many words and groups each."""

    def __init__(self, machine: Machine, words: list[int], groups: list[int], apart: int, tokens: int) -> None:
        self.machine, self.words, self.groups, self.apart, self.tokens = machine, words, groups, apart, tokens
        self.sequencer, self.slice = Sequencer(machine), Slice(machine)
        self.places, self.room = BeatPlaces(machine.port_bits, DEPTH), Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sequencer, unit = self.sequencer, self.slice
        m.submodules.sequencer, m.submodules.slice, m.submodules.places = sequencer, unit, self.places
        connect(m, self.places.beats, unit.beats)
        width = ALIGNED_BITS * self.machine.weight_lanes
        m.submodules.words = words = Memory(shape=width, depth=len(self.words), init=self.words)
        m.submodules.groups = groups = Memory(shape=8 + MANTISSA_SUM_BITS, depth=len(self.groups), init=self.groups)
        read, read_group = words.read_port(), groups.read_port()
        operands = read.data
        if self.machine.short_groups:
            m.submodules.spread = spread = Spread(self.machine)
            operands = spread.operands
            m.d.comb += [
                spread.word.eq(read.data),
                spread.place.eq(delay(m, sequencer.activation_group[:2], 1, "place")),
                spread.piece.eq(delay(m, sequencer.activation_piece, 1, "piece")),
                spread.half.eq(sequencer.half),
                spread.quarter.eq(sequencer.quarter),
            ]
        group = sequencer.activation_group >> (self.apart.bit_length() - 1)
        m.d.comb += [
            read.addr.eq(sequencer.activation_slot * (len(self.words) // self.tokens) + sequencer.activation_word),
            read_group.addr.eq(sequencer.activation_slot * (len(self.groups) // self.tokens) + group),
            unit.activation.eq(delay(m, operands, OPERANDS - 1, "bus")),
            Cat(unit.exponent, unit.sum).eq(delay(m, read_group.data, OPERANDS - 1, "of_group")),
            sequencer.slot.eq(sequencer.token),
            self.room.eq(self.places.level != DEPTH),
            sequencer.weights_ready.eq(unit.beats.valid),
            sequencer.weights_behind.eq(self.places.behind),
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
    run(MACHINE, LANES, weights, tokens, pauses)


@pytest.mark.parametrize(("tokens", "pauses"), [(1, 0.0), (3, 0.4)])
@pytest.mark.parametrize(
    ("weights", "group"), [(form, group) for form in FORMATS for group in (8, 16)] + [(INT4Z, 64)], ids=str
)
def test_short_groups(weights: Format, group: int, tokens: int, pauses: float) -> None:
    """Two and four side by side in a beat; longer ones on the same machine."""
    run(SHORT, group, weights, tokens, pauses)


def test_the_largest_sums() -> None:
    """As many channels as a group can have, and all activations and digits as large as they can be."""
    run(MACHINE, LARGEST_GROUP, INT8, 1, 0.0, largest=True)


def run(machine: Machine, group: int, weights: Format, tokens: int, pauses: float, largest: bool = False) -> None:
    rng = np.random.default_rng(tokens)
    lanes = machine.weight_lanes
    groups, rows, pieces = 9 if group <= lanes else 5, 16, max(1, lanes // group)
    x = (rng.standard_normal((tokens, groups * group)) * 2.0 ** rng.integers(-9, 9, groups * group)).astype(np.float32)
    q = random_codes(weights, rng, (rows, groups, group))
    if largest:
        groups, rows = 2, 8
        x = np.full((tokens, groups * group), np.nextafter(np.float32(2), np.float32(0)))
        q = np.resize(np.array([127, -1, -128, 15], np.int8), (groups, group, rows)).transpose(2, 0, 1)
    m, exponent = align.align(x, group)
    scale = (rng.random((rows, groups)) * rng.choice([-1, 1, 1e-6], (rows, groups))).astype(np.float16)
    stream = WeightStream(rows, groups, group, 1, lanes, weights)
    beats = stream.pack(q, scale)[0][: stream.port_bytes(0)].reshape(-1, lanes // 2)
    mask, sum_mask = (1 << ALIGNED_BITS) - 1, (1 << MANTISSA_SUM_BITS) - 1
    whole = padded(m.reshape(tokens, -1), lanes).reshape(-1, lanes)
    memory = [sum((int(v) & mask) << ALIGNED_BITS * i for i, v in enumerate(word)) for word in whole]
    totals = m.sum(-1).astype(int).reshape(-1).tolist()
    of_groups = [e | (total & sum_mask) << 8 for e, total in zip(exponent.reshape(-1).tolist(), totals, strict=True)]
    dut = Bench(machine, memory, of_groups, max(1, (4 if machine.short_groups else 1) * group // lanes), tokens)
    shape = {**matmul_shape(rows, 1), "groups": groups, "format": weights.code}
    seen: dict[tuple[int, int], int] = {}
    busy = {"cycles": 0, "steps": 0, "drained": 0}

    async def feed(ctx) -> None:
        position, push = 0, False
        places, sequencer = dut.places, dut.sequencer
        ctx.set(sequencer.instruction.word, MATMUL.encode(shape))
        ctx.set(sequencer.group, group)
        ctx.set(sequencer.token_count, tokens)
        await ctx.tick()
        ctx.set(sequencer.start, 1)
        await ctx.tick()
        ctx.set(sequencer.start, 0)
        first = None
        for cycle in range(6000):
            push = position < len(beats) and ctx.get(dut.room) and rng.random() >= pauses
            ctx.set(places.push, push)
            if push:
                ctx.set(places.push_data, int.from_bytes(beats[position].tobytes(), "little"))
            if first is None and ctx.get(places.beats.valid & places.beats.ready):
                first = cycle
            busy["steps"] += ctx.get(sequencer.streaming)
            if ctx.get(sequencer.streaming):
                busy["cycles"] = cycle + 1 - (first or 0)
            done = ctx.get(sequencer.round_done)
            await ctx.tick()
            position += push
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
    pairs, steps = rows * groups * weights.bits // 8 * max(1, group // lanes) // pieces, tokens * pieces
    assert busy["steps"] == pairs * steps
    if not pauses:
        words = -(-rows * groups // weights.scales_per_word)
        scale_beats = words * 64 // (lanes // 2)
        # One beat per cycle while memory is the limit, one step per cycle while tokens are; scale words come ahead of pairs.
        expected = 2 * pairs + scale_beats if steps <= 2 else pairs * steps + scale_beats + 2
        assert busy["cycles"] <= expected + steps + 1, (busy, expected)
