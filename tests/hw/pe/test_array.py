"""A whole product through sequencer, tiles and epilogue: the bits of the model, whatever the weights' pauses."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from amaranth.hdl import Cat, Elaboratable, Module, Signal
from amaranth.lib import stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import connect
from amaranth.sim import SimulatorContext

from hw.arithmetic.pipeline import delay
from hw.memory.places import BeatPlaces
from hw.pe.array import ArrayUnit
from hw.pe.tile import Tile
from skipopu.isa.spec import BUFFER_UNIT, MATMUL, Epilogue, matmul_shape
from skipopu.layout import WeightStream
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics import align, fp32
from skipopu.numerics.align import ALIGNED_BITS
from skipopu.numerics.formats import INT4, INT8, Format
from skipopu.numerics.profile import PROFILES
from tests.hw.bench import exercise

LANES, DEPTH = 16, 4  # DEPTH: beats that wait at a port
ONE_PORT = Machine("bench", 1, 4 * LANES, 4, 2, 1024, 64 * LANES, 64, 64, 64, weight_fifo=8, burst=4)


class Bench(Elaboratable):
    """The array with its tiles; activations come from a memory of whole groups, as late as the aligned memory's."""

    def __init__(self, machine: Machine, activations: list[int], exponents: list[int], groups: int) -> None:
        self.tiles = [Tile(machine) for _ in range(machine.ports)]
        self.array = ArrayUnit(machine, self.tiles)
        self.beats = [stream.Signature(machine.port_bits).flip().create() for _ in range(machine.ports)]
        self.places = [BeatPlaces(machine.port_bits, DEPTH) for _ in range(machine.ports)]
        self.rows = [a | e << ALIGNED_BITS * LANES for a, e in zip(activations, exponents, strict=True)]
        self.groups = groups

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.array, array = self.array, self.array
        m.submodules.memory = memory = Memory(shape=ALIGNED_BITS * LANES + 8, depth=len(self.rows), init=self.rows)
        read, activation = memory.read_port(), Signal(ALIGNED_BITS * LANES)
        m.d.comb += [
            read.addr.eq(array.sequencer.activation_slot * self.groups + array.sequencer.activation_word),
            Cat(activation, array.exponent).eq(delay(m, read.data, pipeline.OPERANDS - 1, "bus")),
        ]
        for p, tile in enumerate(self.tiles):
            m.submodules[f"tile_{p}"] = tile
            m.submodules[f"places_{p}"] = places = self.places[p]
            connect(m, places.beats, array.beats[p])
            m.d.comb += [
                tile.slice.activation.eq(activation),
                self.beats[p].ready.eq(places.level != DEPTH),
                places.push.eq(self.beats[p].valid & self.beats[p].ready),
                places.push_data.eq(self.beats[p].payload),
                array.behind[p].eq(places.behind),
            ]
        return m


@pytest.mark.parametrize(
    ("ports", "mask", "weights"),
    [
        (1, 0b0010, INT4),
        pytest.param(1, 0b1111, INT8, marks=pytest.mark.slow),
        pytest.param(2, 0b1011, INT4, marks=pytest.mark.slow),
        pytest.param(2, 0b1011, INT8, marks=pytest.mark.slow),
    ],
)
def test_a_product(ports: int, mask: int, weights: Format) -> None:
    """Listed slots' products lie where the instruction says, and nothing else is written."""
    machine, rng = dataclasses.replace(ONE_PORT, ports=ports), np.random.default_rng(ports)
    groups, rows, group, tokens = 3, 20, LANES, machine.tokens
    slots = [slot for slot in range(tokens) if mask >> slot & 1]
    x = (rng.standard_normal((tokens, groups * group)) * 2.0 ** rng.integers(-9, 9, groups * group)).astype(np.float32)
    m, exponent = align.align(x, group)
    limit = 1 << weights.bits - 1
    q = rng.integers(-limit, limit, (rows, groups, group)).astype(np.int8)
    scale = rng.random((rows, groups)).astype(np.float16)
    layout = WeightStream(rows, groups, group, ports, LANES, weights)
    packed = layout.pack(q, scale)
    beats = [packed[p][: layout.port_bytes(p)].reshape(-1, LANES // 2) for p in range(ports)]
    memory = [
        sum((int(v) & (1 << ALIGNED_BITS) - 1) << ALIGNED_BITS * i for i, v in enumerate(m[t, g]))
        for t in range(tokens)
        for g in range(groups)
    ]
    dut = Bench(machine, memory, exponent.reshape(-1).tolist(), groups)
    array, base, stride = dut.array, 2, 3
    fields = {"groups": groups, "format": weights.code, "dst": base, "stride": stride, "epilogue": Epilogue.STORE}
    word = MATMUL.encode({**matmul_shape(rows, ports), **fields})
    parts = [PROFILES["exact18"].group_products(m[:, g], exponent[:, g], q[:, g], scale[:, g]) for g in range(groups)]
    total = parts[0]
    for part in parts[1:]:
        total = fp32.add(total, part)
    bits = fp32.bits(total)
    expected = {(base + stride * slot) * BUFFER_UNIT + row: int(bits[slot, row]) for slot in slots for row in range(rows)}
    steps = 0

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        nonlocal steps
        seen: dict[int, int] = {}
        lanes, steps, finished = machine.vector_lanes, 0, False
        ctx.set(array.active, 1)
        ctx.set(array.epilogue.aligned, 1)
        while not finished:
            write = array.epilogue.write
            ctx.set(array.epilogue.pause, bool(stalls and stalls.random() < 0.3))
            _, _, valid, address, enable, data, streaming, finished = await ctx.tick().sample(
                array.epilogue.write_valid,
                write.address,
                write.enable,
                write.data,
                array.sequencer.streaming,
                array.epilogue.done,
            )
            steps += streaming
            for k in range(lanes if valid else 0):
                if enable >> k & 1:
                    place = address // lanes * lanes + k
                    assert place not in seen
                    seen[place] = data >> 32 * k & 0xFFFF_FFFF
        ctx.set(array.active, 0)
        assert seen == expected

    feed = {dut.beats[p]: [int.from_bytes(beat.tobytes(), "little") for beat in beats[p]] for p in range(ports)}
    constants = [(array.instruction, {"word": word, "mask": mask}), (array.group, group)]
    run = exercise(dut, feed, {}, drive=drive, constants=constants, seeds=(1,))
    # Two beats or a step per listed token for every pair, in all ports at once.
    blocks = -(-rows // 8)
    pairs = -(-blocks // ports) * 8 * groups * weights.bits // 8
    assert steps == pairs * len(slots)
    spent = max(times[-1] for times in run.taken.values()) - min(times[0] for times in run.taken.values()) + 1
    ways = 2 * pipeline.told(machine)  # what a port has is known so much later, and what it is told to take
    assert spent <= pairs * max(2, len(slots)) + len(beats[0]) - 2 * pairs + len(slots) + 2 + 2 * ways  # at both ends
