"""Where a walk begins: every window of some, at positions around whole rounds, for numbers of ports that are no power of two too."""

from __future__ import annotations

import dataclasses

import pytest
from amaranth.sim import SimulatorContext

from hw.kv.first import FirstToken
from skipopu.layout import KvEntry
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_CONTEXT
from tests.hw.kv.support import set_heads, simulate


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("ports", [1, 2, 3, 20, 32])
def test_first_token_of_a_window(ports: int, tokens: int) -> None:
    machine = dataclasses.replace(Machine.load("tiny"), ports=ports, tokens=tokens)
    dut, entry = FirstToken(machine), KvEntry(2, 8, machine)
    last = LARGEST_CONTEXT - 1
    cases = [(p, w) for p in (0, 7, 19, 20, 21, 639, last - 1, last) for w in (0, 1, 2, 7, 20, 21, 640, last, last + 1)]

    async def bench(ctx: SimulatorContext) -> None:
        set_heads(ctx, dut.heads, entry)
        for position, window in cases:
            ctx.set(dut.position, position)
            ctx.set(dut.window, window)
            await ctx.tick().repeat(3 if tokens > 1 else 2)
            first = max(0, position + 1 - window) if window else 0
            slot, port = divmod(first, ports)
            seen = [ctx.get(getattr(dut.first, name)) for name in ("token", "round", "port", "slot")]
            assert seen == [first, slot * ports, port, slot]
            if slot < machine.history_slots:
                assert ctx.get(dut.first.base) == slot * 2 * entry.kv_heads * entry.head_beats

    simulate(dut, bench)
