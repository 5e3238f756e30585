"""Beats come out in the order in which they were pushed, and as many as come."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import SimulatorContext

from hw.memory.places import BeatPlaces
from tests.hw.bench import exercise

WIDTH, COUNT = 8, 60


@pytest.mark.parametrize("depth", [3, 4, 8])
def test_order_and_level(depth: int) -> None:
    """Every place is used; the level is what came and was not taken, and the beats behind the eldest are known."""
    dut, beats = BeatPlaces(WIDTH, depth), [5 * k & 255 for k in range(COUNT)]
    fullest = 0

    async def beside(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        nonlocal fullest
        held, pushed = 0, 0
        while True:
            push = pushed < COUNT and held < depth and not (stalls and stalls.random() < 0.3)
            ctx.set(dut.push, push)
            ctx.set(dut.push_data, beats[pushed] if push else 0)
            assert ctx.get(dut.level) == held
            sampled = await ctx.tick().sample(dut.beats.valid, dut.beats.ready, dut.behind, dut.further)
            _, _, valid, ready, behind, further = sampled
            assert held or not valid
            assert (behind, further) == (held - valid >= 1, held - valid >= 2)
            pushed, held = pushed + push, held + push - (valid and ready)
            fullest = max(fullest, held)

    run = exercise(dut, {}, {dut.beats: beats}, beside=beside)
    # Through in 2 cycles, then one in every cycle.
    assert run.given[dut.beats] == list(range(2, 2 + COUNT))
    assert fullest == depth
