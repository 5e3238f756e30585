"""The multipliers' two users against a plain owner: the array first, whoever has begun goes on to its end."""

from __future__ import annotations

import random
from typing import Literal

from amaranth.sim import Simulator, SimulatorContext

from hw.pe.sharing import Sharing
from skipopu.machine.config import Machine

MACHINE = Machine.load("tiny")
Owner = Literal["array", "attention"] | None


def test_turns() -> None:
    """Instructions of random length that come at random: each runs at once where nothing else does, and without a break."""
    dut, source = Sharing(MACHINE), random.Random(5)
    bits = len(dut.operands)
    waited = {"array": 0, "attention": 0}
    together = 0

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal together
        owner: Owner = None
        left = {"array": 0, "attention": 0}  # cycles of the present instruction, none: no instruction
        held: list[int] = []
        for cycle in range(800):
            came = [name for name in left if not left[name] and source.random() < 0.3]
            for name in came:
                left[name] = source.choice((1, 1, 2, 3, 8))
            together += len(came) == 2 and owner is None
            attending = owner == "attention"  # from the cycle after its first one
            owner = owner or ("array" if left["array"] else "attention" if left["attention"] else None)
            for name in left:
                waited[name] += bool(left[name]) and owner != name
            activations, queries = source.getrandbits(bits), source.getrandbits(bits)
            ctx.set(dut.activations, activations)
            ctx.set(dut.queries, queries)
            ctx.set(dut.array, left["array"] > 0)
            ctx.set(dut.attention, left["attention"] > 0)
            ctx.set(dut.attended, owner == "attention" and left["attention"] == 1)
            assert ctx.get(dut.array_active) == (owner == "array"), cycle
            assert ctx.get(dut.attention_active) == (owner == "attention"), cycle
            held.append(queries if attending else activations)
            assert len(held) < 3 or ctx.get(dut.operands) == held.pop(0), cycle
            if owner:
                left[owner] -= 1
                owner = owner if left[owner] else None
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert min(waited.values()) > 50
    assert together > 20
