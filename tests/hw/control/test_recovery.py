"""A start goes through at once, behind an error after a reset, and where answers are owed not at all."""

from __future__ import annotations

import itertools
import random

import pytest
from amaranth.sim import SimulatorContext

from hw.control.host import RESET_CYCLES
from hw.control.recovery import Recovery
from tests.hw.bench import exercise


@pytest.mark.parametrize(("failed", "running", "quiet"), [*itertools.product((0, 1), repeat=3)])
def test_starts(failed: int, running: int, quiet: int) -> None:
    """The error is gone with the reset."""
    dut = Recovery()

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        for port, value in ((dut.failed, failed), (dut.running, running), (dut.ports_quiet, quiet)):
            ctx.set(port, value)
        await ctx.tick().repeat(3)
        starts, resets, busy = [], [], []
        for cycle in range(2 * RESET_CYCLES):
            ctx.set(dut.asked, cycle == 0)
            starts += [cycle] * ctx.get(dut.start)
            resets += [cycle] * ctx.get(dut.reset)
            busy += [cycle] * ctx.get(dut.busy)
            if resets and cycle == resets[0] + 2:  # a register gives the reset to what keeps the error
                ctx.set(dut.failed, 0)
            await ctx.tick()
        restarts = failed and not running and quiet
        assert starts == ([RESET_CYCLES + 2] if restarts else [] if failed else [0])
        assert resets == (list(range(1, RESET_CYCLES + 1)) if restarts else [])
        assert busy == list(range(RESET_CYCLES + 3 if restarts else 1))

    exercise(dut, {}, {}, drive=drive, seeds=range(1))
