"""Runs of a tile are its groups' heads and the beats that active channels need, each once and in their order."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from amaranth.hdl import Array, Const, Elaboratable, Module
from amaranth.sim import SimulatorContext
from numpy.typing import NDArray

from hw.control.active_tile import ActiveTile
from hw.pe.stationary.operands import word_lanes
from skipopu.machine.config import Machine
from tests.hw.bench import exercise

MACHINE = dataclasses.replace(Machine.load("tiny-masks"), burst=8)
LANES = word_lanes(MACHINE)
GROUP, GROUPS, HEADS, FIRST = 4 * LANES, 5, 3, 2  # the first word of the channels is not the memory's first


class Held(Elaboratable):
    """The unit beside words of active channels."""

    def __init__(self, unit: ActiveTile, active: NDArray[np.bool_]) -> None:
        self.unit = unit
        words = np.concatenate([np.zeros((FIRST, LANES), bool), active.reshape(-1, LANES)])
        self.words = [Const(sum(int(bit) << k for k, bit in enumerate(word)), LANES) for word in words]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = self.unit
        m.d.comb += self.unit.active.word.eq(Array(self.words)[self.unit.active.address])
        return m


def expected(active: NDArray[np.bool_], channels: int, base: int, leading: int = 0, heads: int = HEADS) -> list[dict[str, int]]:
    """Pieces end with words of channels; those that touch are one run until it has a burst or more; groups that are ``leading`` have none."""
    runs: list[dict[str, int]] = []

    def add(beat: int, count: int) -> None:
        if runs and runs[-1]["beat"] + runs[-1]["count"] == beat and runs[-1]["count"] < MACHINE.burst:
            runs[-1]["count"] += count
        else:
            runs.append({"beat": beat, "count": count})

    per_word = LANES >> channels
    for number, group in enumerate(active[leading:], leading):
        beats = group.reshape(-1, 1 << channels).any(1)
        start = base + number * (heads + len(beats))
        add(start, heads)
        for word in range(0, len(beats), per_word):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], beats[word : word + per_word], [0]])))
            for first, end in edges.reshape(-1, 2):
                add(start + heads + word + int(first), int(end - first))
    return runs


@pytest.mark.parametrize("leading", [0, 2])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.4, 0.9, 1.0])
def test_runs_are_what_is_needed(share: float, leading: int) -> None:
    """Of three tiles; of the first without its leading groups."""
    rng = np.random.default_rng(int(100 * share))
    active = rng.random((GROUPS, GROUP)) < share
    dut, tiles = ActiveTile(MACHINE), [(leading, 0, 1000), (0, MACHINE.channel_slots.bit_length() - 1, 77), (0, 1, 50_000)]
    runs = [run for first, channels, base in tiles for run in expected(active, channels, base, first)]

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        for first, channels, base in tiles:
            ctx.set(dut.leading, first)
            ctx.set(dut.first_word, FIRST + first * GROUP // LANES)
            ctx.set(dut.base, base + first * (HEADS + (GROUP >> channels)))
            ctx.set(dut.channels, channels)
            ctx.set(dut.per_group, HEADS + (GROUP >> channels))
            ctx.set(dut.groups_done, 0 if stalls else GROUPS)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            ended = False
            while not ended:
                *_, last, end = await ctx.tick().sample(dut.runs.valid & dut.runs.ready & dut.last, dut.end)
                ended = bool(last)
                if stalls and stalls.random() < 0.05 and ctx.get(dut.groups_done) < GROUPS:
                    ctx.set(dut.groups_done, ctx.get(dut.groups_done) + 1)
            assert end == base + GROUPS * (HEADS + (GROUP >> channels))

    constants = [(dut.groups, GROUPS), (dut.group, GROUP), (dut.heads, HEADS)]
    run = exercise(Held(dut, active), {}, {dut.runs: runs}, constants=constants, drive=drive)
    if share == 0:  # nothing but heads: a cycle each, one for each word of channels, and four between groups
        words = GROUP // LANES
        groups = GROUPS - leading
        assert np.diff(run.given[dut.runs][: groups - 1]).tolist() == (groups - 2) * [words + 4]
