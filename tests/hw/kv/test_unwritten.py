"""Entries still to be written, against counts that do not wrap."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import SimulatorContext

import hw.kv.unwritten
from hw.kv.unwritten import Unwritten
from tests.hw.kv.support import simulate

BITS = 5  # of the counts here, so that they wrap often


def test_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ATTEND waits for as many KVWRITEs as were dispatched before it, however many came since."""
    monkeypatch.setattr(hw.kv.unwritten, "ENTRY_BITS", BITS)
    dut, source = Unwritten(), random.Random(3)
    written, expected = 0, False
    seen = {True: 0, False: 0}

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal written, expected
        for cycle in range(600):
            # Far less than half of what can be counted is under way; after it, every cycle without a pause.
            before = max(0, written + source.randrange(-8, 9))
            ctx.set(dut.before, before % (1 << BITS))
            assert ctx.get(dut.unwritten) == expected, (cycle, before, written)  # of a cycle before
            expected = before > written
            seen[expected] += 1
            done, restart = cycle >= 400 or source.random() < 0.5, source.random() < 0.005
            ctx.set(dut.written, done)
            ctx.set(dut.restart, restart)
            await ctx.tick()
            written = 0 if restart else written + done

    simulate(dut, bench)
    assert written > 4 << BITS
    assert min(seen.values()) > 100
