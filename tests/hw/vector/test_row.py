"""Rows in parts: runs to every port of the row, words in order, a word per cycle and, from several ports, two cycles more for each beat."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.vector.row import RowReader
from skipopu.isa.spec import EMBED
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from tests.hw.arithmetic.operands import halves
from tests.hw.bench import exercise
from tests.hw.vector.support import packed, pause

MOST_ELEMENTS = (1 << EMBED.by_name["elements"].width) - 1
MOST_ROW = MOST_ELEMENTS // 128  # 64-byte units of a quarter of it


@pytest.mark.parametrize(
    ("ports", "bits", "lanes", "row", "elements"),
    [(2, 128, 4, 1, 64), (2, 128, 4, 1, 37), (3, 64, 2, 2, 70), (3, 128, 8, 1, 64), (3, 64, 4, 1, 9), (1, 512, 8, 1, 30)],
)
def test_row(ports: int, bits: int, lanes: int, row: int, elements: int) -> None:
    machine = dataclasses.replace(Machine.load("tiny"), ports=ports, port_bits=bits, vector_lanes=lanes)
    part, per_beat, address = 32 * row, bits // 16, (1 << 33) + 12345  # above 4 GB
    used = -(-elements // part)
    values = halves(used * part, np.random.default_rng(elements))
    beats = [
        [packed(values[first : first + per_beat], 16) for first in range(p * part, (p + 1) * part, per_beat)]
        for p in range(used)
    ]
    numbers = values.view(np.float16).astype(np.float32).view(np.uint32)
    words = [
        {"element": k, "data": packed(numbers[k : k + lanes]), "enable": (1 << min(lanes, elements - k)) - 1}
        for k in range(0, elements, lanes)
    ]
    run = {"beat": address * 64 // machine.beat_bytes, "count": part // per_beat}
    dut = RowReader(machine)
    finished: list[int] = []
    waited: list[int] = []

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        for _ in range(2):
            await pause(ctx, stalls)
            if stalls is None:  # it idles for a cycle
                await ctx.tick()
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            cycles = 1
            while not ctx.get(dut.done):
                if stalls is None and not finished and ctx.get(dut.waiting):
                    waited.append(cycles)
                await ctx.tick()
                cycles += 1
            await ctx.tick()
            if stalls is None:
                finished.append(cycles)

    seen = exercise(
        dut,
        {dut.beats[p]: 2 * beats[p] for p in range(used)},
        {dut.words: 2 * words, **{dut.runs[p]: [run] * 2 if p < used else [] for p in range(ports)}},
        constants=[(dut.address, address), (dut.row, row), (dut.elements, elements)],
        drive=drive,
    )
    # Cycles from start, which is in cycle 1. Of several ports each is asked a cycle after it could take it, and a beat is fetched while
    # nothing else is done: it is seen, taken, and there.
    apart, per_word = pipeline.apart(machine), per_beat // lanes
    asked = [(1 + p) * (1 + apart) for p in range(used)]
    taking, fetch = asked[-1] + 1 - apart, 2 * apart
    assert [seen.given[dut.runs[p]][0] - 1 for p in range(used)] == asked
    given = [taking + 2 + fetch + k + k // per_word * fetch for k in range(len(words))]
    assert [cycle - 1 for cycle in seen.given[dut.words][: len(words)]] == given
    # A part's beats are taken to its end, as fast; a word of the last ones is waited for.
    each, taken = per_word + fetch, used * part // per_beat
    assert finished == [taking + taken * each + (elements > used * part - lanes)] * 2
    # That is told a cycle late.
    until_asked = [cycle + 1 for cycle in asked[:-1]] if apart else []
    assert waited == until_asked + [taking + k * each + 1 + j for k in range(taken) for j in range(fetch)]


@pytest.mark.parametrize(("elements", "used"), [(4 * 32 * MOST_ROW, 4), (4 * 32 * MOST_ROW + 1, 5), (1, 1), (MOST_ELEMENTS, 3)])
def test_parts_of_the_longest_rows(elements: int, used: int) -> None:
    """As many ports are asked as have a part of it: four quarters and what is left of them, three of the longest parts."""
    machine = dataclasses.replace(Machine.load("tiny"), ports=5)
    dut, row = RowReader(machine), MOST_ROW if elements < MOST_ELEMENTS else (1 << EMBED.by_name["row"].width) - 1
    run = {"count": row * 64 // machine.beat_bytes}

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)

    streams = {runs: [run] if p < used else [] for p, runs in enumerate(dut.runs)}
    exercise(dut, {}, streams, constants=[(dut.row, row), (dut.elements, elements)], drive=drive, seeds=())
