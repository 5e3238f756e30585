"""EMBED, twice: token ids, rows and rotary rows of the listed slots from every port; a token id that does not exist."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.vector.embed import EmbedUnit
from skipopu.isa.spec import BUFFER_UNIT, EMBED
from skipopu.machine.accepted import LARGEST_BUFFER
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_CONTEXT, LARGEST_HEAD, LARGEST_VOCABULARY
from skipopu.numerics.signature import index, signature
from tests.hw.arithmetic.operands import halves
from tests.hw.bench import exercise
from tests.hw.vector.support import packed, pause

LANES, TOKENS, PORTS, BITS = 4, 3, 2, 128
MACHINE = dataclasses.replace(Machine.load("tiny"), tokens=TOKENS, vector_lanes=LANES, ports=PORTS, port_bits=BITS)
ABOVE_4_GB = 1 << 26  # 64-byte units
VOCABULARY, ELEMENTS, ROW, STRIDE, ADDRESS = LARGEST_VOCABULARY, 40, 1, 48, ABOVE_4_GB + 900
POSITION, DST = LARGEST_CONTEXT - TOKENS, LARGEST_BUFFER - TOKENS * STRIDE
IDS, ROTARY, ROTARY_ROW, HALF_HEAD = ABOVE_4_GB + 100, ABOVE_4_GB + 200, 16, 6
CONFIGURATION = {"tokens": IDS, "rope": ROTARY, "rope_row": ROTARY_ROW, "vocabulary": VOCABULARY, "half_head": HALF_HEAD}
WORD = EMBED.encode({"dst": DST // BUFFER_UNIT, "stride": STRIDE // BUFFER_UNIT, "elements": ELEMENTS, "row": ROW})


def beats_of(values: np.ndarray, bits: int) -> list[int]:
    return [packed(values[first : first + BITS // bits], bits) for first in range(0, len(values), BITS // bits)]


@pytest.mark.parametrize(("mask", "half_head"), [(0b111, HALF_HEAD), (0b010, LARGEST_HEAD // 2)])
def test_slots(mask: int, half_head: int) -> None:
    rng = np.random.default_rng(mask)
    ids = rng.integers(0, VOCABULARY, 16, dtype=np.uint32)  # of the last 16 positions
    ids[-2] = VOCABULARY - 1
    angles = rng.integers(0, 2**32, (16, 2 * half_head), dtype=np.uint32)
    feed: list[list[int]] = [[] for _ in range(PORTS)]
    runs: list[list[dict[str, int]]] = [[] for _ in range(PORTS)]
    words, rotary, where, values = [], [], [], []

    def ask(port: int, address: int, beats: list[int]) -> None:
        runs[port].append({"beat": address // (BITS // 8), "count": len(beats)})
        feed[port].extend(beats)

    for slot in (s for s in range(TOKENS) if mask >> s & 1):
        position = POSITION + slot
        last = position - LARGEST_CONTEXT
        token, row = int(ids[last]), halves(PORTS * 32, rng).reshape(PORTS, 32)
        ask(0, IDS * 64 + 4 * position, [beats_of(ids, 32)[last // 4]])
        for port in range(PORTS):
            ask(port, (ADDRESS + token * ROW) * 64, beats_of(row[port], 16))
        ask(0, (ROTARY + position * ROTARY_ROW) * 64, beats_of(angles[last], 32))
        numbers = row.reshape(-1)[:ELEMENTS].view(np.float16).astype(np.float32).view(np.uint32)
        base = DST + slot * STRIDE
        for first in range(0, ELEMENTS, LANES):
            words.append({"address": base + first, "slot": slot, "enable": 15, "data": packed(numbers[first : first + LANES])})
        rotary += [(slot, k, int(value)) for k, value in enumerate(angles[last])]
        where += [np.arange(base, base + ELEMENTS), index(1, slot, np.arange(2 * half_head))]
        values += [numbers, angles[last]]
    dut = EmbedUnit(MACHINE)
    times: list[int] = []

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        await pause(ctx, stalls)
        for name, value in (CONFIGURATION | {"half_head": half_head}).items():
            ctx.set(getattr(dut, name), value)
        ctx.set(dut.task.instruction, {"word": WORD, "mask": mask, "address": ADDRESS, "position": POSITION})
        for _ in range(2):
            ctx.set(dut.task.active, 1)
            seen, times[:], cycle = [], [], 0
            while not ctx.get(dut.finish):
                if ctx.get(dut.rotary.enable):
                    seen.append(tuple(ctx.get(port) for port in (dut.rotary.slot, dut.rotary.word, dut.rotary.data)))
                    times.append(cycle)
                await ctx.tick()
                cycle += 1
            assert seen == rotary
            for _ in range(4):  # the signature's latency; the aligner takes longer
                await ctx.tick()
                assert not ctx.get(dut.task.done)
            ctx.set(dut.aligned, 1)
            assert ctx.get(dut.task.done)
            assert ctx.get(dut.task.digest) == signature(np.concatenate(where), np.concatenate(values))
            await ctx.tick()
            ctx.set(dut.aligned, 0)
            ctx.set(dut.task.active, 0)
            await ctx.tick()

    run = exercise(
        dut,
        {port: 2 * beats for port, beats in zip(dut.beats, feed, strict=True)},
        {dut.words: 2 * words, **{port: 2 * asked for port, asked in zip(dut.runs, runs, strict=True)}},
        drive=drive,
    )
    per_row, per_beat = ELEMENTS // LANES, BITS // 16 // LANES
    given = run.given[dut.words]
    for k in range(len(words) // per_row):
        row = given[k * per_row : (k + 1) * per_row]
        assert row == [row[0] + word + 2 * (word // per_beat) for word in range(per_row)]
        numbers = times[2 * half_head * k : 2 * half_head * (k + 1)]
        assert numbers == list(range(numbers[0], numbers[0] + 2 * half_head))
    slot = (mask & -mask).bit_length() - 1
    first = run.given[dut.runs[0]]
    assert first[0] == 2 + 3 * slot
    # Memory answers in the next cycle with the id's beat, and a port is asked in every other one.
    assert first[1] == first[0] + 1 + 3
    assert run.given[dut.runs[1]][0] == first[1] + 2
    # The row's first beat is there 2 cycles after the last port was asked, its first word another 2 later.
    assert given[0] == first[1] + 2 * (PORTS - 1) + 2 + 2


def test_a_token_id_beyond_the_vocabulary_stops_the_unit() -> None:
    dut = EmbedUnit(MACHINE)
    told: list[int] = []

    async def bench(ctx: SimulatorContext) -> None:
        for name, value in CONFIGURATION.items():
            ctx.set(getattr(dut, name), value)
        ctx.set(dut.task.instruction, {"word": WORD, "mask": 1})
        ctx.set(dut.task.active, 1)
        for p in range(PORTS):
            ctx.set(dut.runs[p].ready, 1)
            ctx.set(dut.beats[p].valid, 1)
        ctx.set(dut.beats[0].payload, packed([VOCABULARY] * 4))
        for cycle in range(40):
            if ctx.get(dut.bad_token):
                told.append(cycle)
            assert not ctx.get(dut.words.valid)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert told == [4]
