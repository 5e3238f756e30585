"""A whole product through a stationary array: the bits of the model, whatever the weights' pauses."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import connect
from amaranth.sim import SimulatorContext

from hw.arithmetic.pipeline import delay
from hw.memory.places import BeatPlaces
from hw.pe.activation import AlignedMemory
from hw.pe.array import ArrayUnit
from hw.pe.stationary.operands import Operands, word_lanes
from hw.pe.tile import Tile
from skipopu.channel_stream import ChannelStream
from skipopu.isa.spec import BUFFER_UNIT, MATMUL, Epilogue, matmul_shape
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.machine.pipeline import OPERANDS
from skipopu.numerics import align, fp32
from skipopu.numerics.align import ALIGNED_BITS
from skipopu.numerics.formats import INT4, INT8, Format
from skipopu.numerics.profile import PROFILES
from tests.hw.bench import exercise

DEPTH = 8  # beats that a port's memory holds
MACHINE = Machine("bench", 1, 64, 4, 2, 1024, 1024, 64, 64, 64, weight_fifo=8, burst=4, stationary=True)


class Bench(Elaboratable):
    """The array with its tiles and the memories of activations."""

    def __init__(self, machine: Machine) -> None:
        self.tiles = [Tile(machine) for _ in range(machine.ports)]
        self.array = ArrayUnit(machine, self.tiles)
        self.memories = [AlignedMemory(machine, machine.activation, word_lanes(machine)) for _ in range(2)]
        self.operands = Operands(machine)
        self.places = [BeatPlaces(machine.port_bits, DEPTH) for _ in self.tiles]
        self.beats = [stream.Signature(machine.port_bits).flip().create(path=(f"beats_{p}",)) for p in range(machine.ports)]
        self.slot, self.element, self.offset = Signal(2), Signal(20), Signal(10)
        self.data, self.exponent, self.enable = Signal(ALIGNED_BITS * machine.vector_lanes), Signal(8), Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.array, array = self.array, self.array
        m.submodules.operands, operands, walk = self.operands, self.operands, self.array.sequencer
        m.d.comb += [
            operands.place.eq(delay(m, walk.activation_place, 1, "place")),
            operands.channels.eq(delay(m, walk.activation_channels, 1, "channels")),
            operands.product.eq(delay(m, walk.step.product, 1, "product")),
            operands.first.eq(delay(m, walk.step.first, 1, "first")),
        ]
        for k, memory in enumerate(self.memories):
            m.submodules[f"memory_{k}"] = memory
            m.d.comb += [
                memory.read_slot.eq(walk.activation_slots[k]),
                memory.read_word.eq(walk.activation_word),
                memory.read_group.eq(walk.activation_group),
                operands.words[k].eq(memory.data),
                array.exponents[k].eq(memory.exponent),
                array.mantissas[k].eq(operands.sums[k]),
                memory.write_slot.eq(self.slot),
                memory.write_element.eq(self.element),
                memory.write_offset.eq(self.offset),
                memory.write_data.eq(self.data),
                memory.write_exponent.eq(self.exponent),
                memory.write_enable.eq(self.enable),
            ]
        for p, places in enumerate(self.places):
            m.submodules[f"places_{p}"] = places
            m.d.comb += [
                places.push.eq(self.beats[p].valid & self.beats[p].ready),
                places.push_data.eq(self.beats[p].payload),
                self.beats[p].ready.eq(places.level < DEPTH),
                array.behind[p].eq(places.behind),
                *([array.further[p].eq(places.further)] if pipeline.told(array.machine) else []),
            ]
            connect(m, places.beats, array.beats[p])
        bus = delay(m, operands.operands, OPERANDS - 1, "bus")
        for p, tile in enumerate(self.tiles):
            m.submodules[f"tile_{p}"] = tile
            m.d.comb += tile.slice.activation.eq(bus)
        return m


@pytest.mark.parametrize(
    ("ports", "bits", "mask", "weights", "rows"),
    [
        (1, 64, 0b0010, INT4, 4),
        (2, 64, 0b1111, INT8, 20),
        (2, 64, 0b1011, INT4, 52),
        (2, 64, 0b0001, INT4, 4),
        (1, 128, 0b0111, INT4, 36),  # more sums than beats, which wait for them
    ],
)
def test_a_product(ports: int, bits: int, mask: int, weights: Format, rows: int) -> None:
    """Listed slots' products lie where the instruction says, and nothing else is written."""
    machine, rng = dataclasses.replace(MACHINE, ports=ports, port_bits=bits), np.random.default_rng(ports)
    groups, group, tokens = 3, 16, machine.tokens
    slots = [slot for slot in range(tokens) if mask >> slot & 1]
    x = (rng.standard_normal((tokens, groups * group)) * 2.0 ** rng.integers(-9, 9, groups * group)).astype(np.float32)
    m, exponent = align.align(x, group)
    limit = 1 << weights.bits - 1
    q = rng.integers(-limit, limit, (rows, groups, group)).astype(np.int8)
    scale = rng.random((rows, groups)).astype(np.float16)
    stream = ChannelStream(rows, groups, group, ports, machine.weight_lanes, weights)
    packed = stream.pack(q, scale)
    beats = [packed[p][: stream.port_bytes(p)].reshape(-1, machine.beat_bytes) for p in range(ports)]
    dut = Bench(machine)
    array, base, stride = dut.array, 2, 8
    fields = {"groups": groups, "format": weights.code, "dst": base, "stride": stride, "epilogue": Epilogue.STORE}
    word = MATMUL.encode({**matmul_shape(rows, ports), **fields})
    parts = [PROFILES["exact18"].group_products(m[:, g], exponent[:, g], q[:, g], scale[:, g]) for g in range(groups)]
    total = parts[0]
    for part in parts[1:]:
        total = fp32.add(total, part)
    patterns = fp32.bits(total)
    expected = {(base + stride * slot) * BUFFER_UNIT + row: int(patterns[slot, row]) for slot in slots for row in range(rows)}

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        seen: dict[int, int] = {}
        lanes, finished = machine.vector_lanes, False
        for slot in range(tokens):
            for element in range(0, groups * group, lanes):
                g, within = divmod(element, group)
                values = m[slot, g, within : within + lanes].astype(int).tolist()
                ctx.set(dut.slot, slot)
                ctx.set(dut.element, element)
                ctx.set(dut.offset, within)
                ctx.set(dut.data, sum((v & (1 << ALIGNED_BITS) - 1) << ALIGNED_BITS * k for k, v in enumerate(values)))
                ctx.set(dut.exponent, int(exponent[slot, g]))
                ctx.set(dut.enable, 1)
                await ctx.tick()
        ctx.set(dut.enable, 0)
        await ctx.tick().repeat(8)
        ctx.set(array.active, 1)
        ctx.set(array.epilogue.aligned, 1)
        while not finished:
            write = array.epilogue.write
            ctx.set(array.epilogue.pause, bool(stalls and stalls.random() < 0.3))
            _, _, valid, address, enable, data, finished = await ctx.tick().sample(
                array.epilogue.write_valid, write.address, write.enable, write.data, array.epilogue.done
            )
            for k in range(lanes if valid else 0):
                if enable >> k & 1:
                    place = address // lanes * lanes + k
                    assert place not in seen
                    seen[place] = data >> 32 * k & 0xFFFF_FFFF
        ctx.set(array.active, 0)
        assert seen == expected

    feed = {
        dut.beats[p]: [int.from_bytes(beat.tobytes(), "little") for beat in beats[p]] for p in range(ports) if len(beats[p])
    }
    constants = [(array.instruction, {"word": word, "mask": mask}), (array.group, group)]
    exercise(dut, feed, {}, drive=drive, constants=constants, seeds=(1,))
