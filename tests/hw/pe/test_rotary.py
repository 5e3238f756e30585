"""The rotary memory gives back what was written, a cycle after it is asked, while other rows are written."""

from __future__ import annotations

import numpy as np
from amaranth.sim import Simulator, SimulatorContext

from hw.pe.rotary import LARGEST_HALF_HEAD, RotaryMemory
from skipopu.machine.config import Machine

TOKENS, PORTS = 3, 2


def test_rows() -> None:
    machine = Machine("rotary", PORTS, 256, TOKENS, 16, 4096, 256, 256, 64, 64)
    assert machine.drain_ports == PORTS
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 2**32, (TOKENS, 2 * LARGEST_HALF_HEAD), dtype=np.uint32)
    dut = RotaryMemory(machine)
    checked = 0

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal checked
        expected: list[tuple[int, int]] = []
        for slot in (*range(TOKENS), None):
            for word in range(2 * LARGEST_HALF_HEAD):
                ctx.set(dut.write.enable, slot is not None)
                if slot is not None:
                    ctx.set(dut.write.slot, slot)
                    ctx.set(dut.write.word, word)
                    ctx.set(dut.write.data, int(rows[slot, word]))
                asked = [int(pair) for pair in rng.integers(0, LARGEST_HALF_HEAD, PORTS)]
                older = int(rng.integers(TOKENS if slot is None else slot)) if slot != 0 else None
                if older is not None:
                    ctx.set(dut.slot, older)
                    for port, pair in zip(dut.pair, asked, strict=True):
                        ctx.set(port, pair)
                await ctx.tick()
                if older is not None:
                    expected = [(int(rows[older, 2 * pair]), int(rows[older, 2 * pair + 1])) for pair in asked]
                    seen = [(ctx.get(cos), ctx.get(sin)) for cos, sin in zip(dut.cos, dut.sin, strict=True)]
                    assert seen == expected
                    checked += 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert checked == TOKENS * 2 * LARGEST_HALF_HEAD
