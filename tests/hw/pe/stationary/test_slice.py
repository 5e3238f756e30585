"""Sequencer, operands and slice of a stationary array: right with random pauses, and without pauses a beat per cycle."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator

from hw.arithmetic.pipeline import delay
from hw.pe.stationary.operands import Operands, word_lanes
from hw.pe.stationary.sequencer import StationarySequencer
from hw.pe.stationary.slice import StationarySlice
from skipopu.channel_stream import ChannelStream
from skipopu.isa.spec import MATMUL, matmul_shape
from skipopu.machine.config import Machine
from skipopu.machine.pipeline import OPERANDS
from skipopu.numerics import align, fp32
from skipopu.numerics.align import ALIGNED_BITS
from skipopu.numerics.formats import BY_NAME, FORMATS, Format
from skipopu.numerics.profile import PROFILES
from tests.support import random_codes

MACHINE = Machine("bench", 1, 64, 4, 2, 1024, 1024, 64, 64, 64, weight_fifo=8, burst=4, formats=tuple(BY_NAME), stationary=True)
WIDE = dataclasses.replace(MACHINE, port_bits=128, vector_lanes=8, activation=1024)


class Bench(Elaboratable):
    """One slice behind its sequencer; activations come from a memory of words, exponents from one of groups, a drained bank is
    free at once."""

    def __init__(self, machine: Machine, words: list[int], groups: list[int], group: int, tokens: int) -> None:
        self.machine, self.words, self.groups, self.tokens = machine, words, groups, tokens
        self.per_group = group // word_lanes(machine)
        self.sequencer, self.slice, self.operands = StationarySequencer(machine), StationarySlice(machine), Operands(machine)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sequencer, unit, operands = self.sequencer, self.slice, self.operands
        m.submodules.sequencer, m.submodules.slice, m.submodules.operands = sequencer, unit, operands
        held = []
        for k in range(2):
            width = ALIGNED_BITS * word_lanes(self.machine)
            m.submodules[f"words_{k}"] = words = Memory(shape=width, depth=len(self.words), init=self.words)
            m.submodules[f"groups_{k}"] = groups = Memory(shape=8, depth=len(self.groups), init=self.groups)
            read, read_group = words.read_port(), groups.read_port()
            slot = sequencer.activation_slots[k]
            m.d.comb += [
                read.addr.eq(slot * (len(self.words) // self.tokens) + sequencer.activation_word),
                read_group.addr.eq(slot * (len(self.groups) // self.tokens) + sequencer.activation_group // self.per_group),
                operands.words[k].eq(read.data),
                sequencer.slots[k].eq(sequencer.tokens[k]),
            ]
            lag = StationarySlice.PUT_ASIDE - 2
            sums = delay(m, operands.sums[k], lag + 1 - Operands.summed(self.machine), f"sums_{k}")
            held.append(Cat(delay(m, read_group.data, lag, f"of_group_{k}"), sums))
        kept = [held_at(m, sequencer.kept, value, f"held_{k}") for k, value in enumerate(held)]
        m.d.comb += [
            operands.place.eq(delay(m, sequencer.activation_place, 1, "place")),
            operands.channels.eq(delay(m, sequencer.activation_channels, 1, "channels")),
            operands.product.eq(delay(m, sequencer.step.product, 1, "product")),
            operands.first.eq(delay(m, sequencer.step.first, 1, "first")),
            unit.activation.eq(delay(m, operands.operands, OPERANDS - 1, "bus")),
            Cat(unit.exponent, unit.mantissas).eq(Mux(sequencer.second, kept[1], kept[0])),
            sequencer.weights_ready.eq(unit.beats.valid),
            unit.fill.eq(sequencer.fill),
            unit.taking.eq(sequencer.taking_ports[0]),
            unit.format.eq(sequencer.format),
            unit.step.eq(sequencer.step),
            unit.sum.eq(sequencer.sum),
            unit.active.eq(sequencer.active_ports[0]),
            sequencer.drained.eq(sequencer.rounds.done),
            sequencer.drained_bank.eq(sequencer.rounds.bank),
        ]
        return m


def held_at(m: Module, kept: Value, value: Value, name: str) -> Signal:
    """``value`` as it was when ``kept`` last was set."""
    held = Signal(len(value), name=name)
    with m.If(kept):
        m.d.sync += held.eq(value)
    return held


@pytest.mark.parametrize("pauses", [0.0, 0.4])
@pytest.mark.parametrize(("tokens", "rows"), [(1, 8), (1, 56), (2, 24), (3, 16), (4, 40)])
@pytest.mark.parametrize("weights", FORMATS, ids=lambda form: form.name)
def test_products(weights: Format, tokens: int, rows: int, pauses: float) -> None:
    run(MACHINE, 16, weights, tokens, rows, pauses)


@pytest.mark.parametrize(("group", "rows"), [(32, 56), (8, 24), (128, 32), (256, 40)])
@pytest.mark.parametrize("weights", FORMATS, ids=lambda form: form.name)
def test_groups(weights: Format, group: int, rows: int) -> None:
    """Short ones, and those of several parts."""
    run(WIDE, group, weights, 4 if group > 128 else 2, rows, 0.0)


def run(machine: Machine, group: int, weights: Format, tokens: int, rows: int, pauses: float) -> None:
    rng = np.random.default_rng(tokens)
    groups, lanes = 3, word_lanes(machine)
    x = (rng.standard_normal((tokens, groups * group)) * 2.0 ** rng.integers(-9, 9, groups * group)).astype(np.float32)
    m, exponent = align.align(x, group)
    q = random_codes(weights, rng, (rows, groups, group))
    scale = (rng.random((rows, groups)) * rng.choice([-1, 1, 1e-6], (rows, groups))).astype(np.float16)
    stream = ChannelStream(rows, groups, group, 1, machine.weight_lanes, weights)
    beats = stream.pack(q, scale)[0][: stream.port_bytes(0)].reshape(-1, machine.beat_bytes)
    mask = (1 << ALIGNED_BITS) - 1
    memory = [sum((int(v) & mask) << ALIGNED_BITS * i for i, v in enumerate(word)) for word in m.reshape(-1, lanes)]
    dut = Bench(machine, memory, exponent.reshape(-1).tolist(), group, tokens)
    shape = {**matmul_shape(rows, 1), "groups": groups, "format": weights.code}
    seen: dict[tuple[int, int], int] = {}
    spent = {"cycles": 0, "steps": 0}

    async def feed(ctx) -> None:
        position, valid, first = 0, False, None
        unit, sequencer = dut.slice, dut.sequencer
        ctx.set(sequencer.instruction.word, MATMUL.encode(shape))
        ctx.set(sequencer.group, group)
        ctx.set(sequencer.token_count, tokens)
        ctx.set(sequencer.start, 1)
        await ctx.tick()
        ctx.set(sequencer.start, 0)
        for cycle in range(9000):
            valid = position < len(beats) and (valid or rng.random() >= pauses)
            ctx.set(unit.beats.valid, valid)
            if valid:
                ctx.set(unit.beats.payload, int.from_bytes(beats[position].tobytes(), "little"))
            taken = bool(valid and ctx.get(unit.beats.ready))
            if taken and first is None:
                first = cycle
            if ctx.get(sequencer.streaming):
                spent["steps"] += 1
                spent["cycles"] = cycle + 1 - (first or 0)
            done = ctx.get(sequencer.rounds.done) and ctx.get(sequencer.rounds.last)
            await ctx.tick()
            if taken:
                position, valid = position + 1, False
            if done:
                return
        raise AssertionError("the product does not end")

    async def drain(ctx) -> None:
        """Reads a bank as soon as its tile is done."""
        number, rounds = 0, -(-rows // 8)
        while number < rounds:
            done, bank, more = (
                ctx.get(port) for port in (dut.sequencer.rounds.done, dut.sequencer.rounds.bank, dut.sequencer.rounds.more)
            )
            await ctx.tick()
            if not done:
                continue
            width, together = (machine.channel_slots - 1).bit_length() or 1, machine.drain_pairs
            bits = (4 // together - 1).bit_length()
            for within in range(more + 1):
                for token, first in itertools.product(range(tokens), range(0, 4, together)):
                    ctx.set(
                        dut.slice.drain_address, token | first // together << 2 | within << 2 + bits | bank << 2 + bits + width
                    )
                    await ctx.tick()
                    for odd, port in enumerate((dut.slice.drain_even, dut.slice.drain_odd)):
                        values = ctx.get(port)
                        for pair in range(together):
                            row = 8 * (number + within) + 2 * (first + pair) + odd
                            seen[row, token] = values >> 32 * pair & 0xFFFF_FFFF
            number += more + 1

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
