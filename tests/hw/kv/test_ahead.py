"""A half whose tag says that it is held is there once its beats came."""

from __future__ import annotations

import dataclasses
from collections import deque

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.ahead import AheadEntries
from skipopu.machine.config import Machine
from tests.hw.kv.support import simulate

MACHINE, SLOTS = Machine.load("tiny"), 12


@pytest.mark.parametrize("window", [False, True])
def test_slots_that_come_in_rising_order(window: bool) -> None:
    """Without windows every layer begins with slot 0, which may be its only one."""
    dut, rng = AheadEntries(dataclasses.replace(MACHINE, window=window)), np.random.default_rng(0)
    early = late = 0

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal early, late
        for _ in range(40):  # layers, of which the next may begin while this one's entries are on their way
            coming: deque[tuple[int, int]] = deque()
            starts = rng.integers(0, 3 if window else 1, int(rng.integers(1, 3)))  # of the layers' windows
            layers = [[(slot, values) for slot in range(first, SLOTS) for values in (0, 1)] for first in starts]
            asked = [half[: int(rng.choice((2, rng.integers(2, 2 * SLOTS))))] for half in layers]
            queue = deque(half for layer in asked for half in layer)
            pending: tuple[int, int] | None = None
            while queue or coming or pending:
                drop = bool(pending) and rng.random() < 0.3
                if pending and not drop:
                    coming.append(pending)
                pending = None
                take = bool(queue) and len(coming) < 8 and rng.random() < 0.5
                ctx.set(dut.taken, take)
                ctx.set(dut.entry.ahead, take)
                if take:
                    pending = queue.popleft()
                    ctx.set(dut.entry.half, {"slot": pending[0], "values": pending[1]})
                elif rng.random() < 0.3:  # an instruction's own entry
                    ctx.set(dut.taken, 1)
                came = bool(coming) and rng.random() < 0.3
                half = coming[0] if came else (0, 0)
                ctx.set(dut.dropped, drop)
                ctx.set(dut.came, came)
                ctx.set(dut.came_half, {"slot": half[0], "values": half[1]})
                slot = int(rng.integers(SLOTS))
                ctx.set(dut.asked, {"slot": slot})
                moving = len(coming) + drop
                assert ctx.get(dut.none) == (moving == 0)
                # The half that comes in this cycle is there in the next.
                if any(slot == s for s, _ in coming):
                    assert not ctx.get(dut.there)
                    late += 1
                elif moving and ctx.get(dut.there):
                    early += 1
                await ctx.tick()
                if came:
                    coming.popleft()
            ctx.set(dut.taken, 0)
            ctx.set(dut.came, 0)
            ctx.set(dut.dropped, 0)
            await ctx.tick()
            assert ctx.get(dut.none)
            assert ctx.get(dut.there)

    simulate(dut, bench)
    assert early > 25
    assert late > 25
