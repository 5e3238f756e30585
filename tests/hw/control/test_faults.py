"""The last of several faults is reported, with its instruction."""

from __future__ import annotations

import itertools

from amaranth.sim import Simulator, SimulatorContext

from hw.control.faults import Faults
from skipopu.isa.registers import Error
from skipopu.isa.spec import PC_BITS

LAST = (1 << PC_BITS) - 1  # instruction of the longest program


def test_the_last_cause_wins() -> None:
    codes = (Error.BUFFER_RANGE, Error.AXI_READ, Error.BUFFER_RANGE)
    dut = Faults(codes)

    async def bench(ctx: SimulatorContext) -> None:
        for k, pc in enumerate(dut.pcs):
            ctx.set(pc, LAST - k)
        for causes in itertools.product((0, 1), repeat=len(codes)):
            for port, cause in zip(dut.causes, causes, strict=True):
                ctx.set(port, cause)
            last = max((k for k, cause in enumerate(causes) if cause), default=None)
            await ctx.tick().repeat(2)
            assert ctx.get(dut.fault) == (last is not None)
            if last is not None:
                assert (ctx.get(dut.code), ctx.get(dut.pc)) == (codes[last], LAST - last)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
