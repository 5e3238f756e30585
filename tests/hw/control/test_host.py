"""Counters of 64 bits through registers of 32, consistent while they count."""

from __future__ import annotations

from amaranth.sim import Simulator, SimulatorContext

from hw.control.host import HostRegisters
from skipopu.isa.registers import HOST, WIDE, counted
from skipopu.machine.config import Machine


def test_a_counter_read_in_mid_run_is_one_number() -> None:
    dut = HostRegisters(Machine.load("mono"))

    async def bench(ctx: SimulatorContext) -> None:
        async def read(name: str) -> int:
            ctx.set(dut.araddr, HOST[name].address)
            ctx.set(dut.arvalid, 1)
            await ctx.tick().until(dut.arready)
            ctx.set(dut.arvalid, 0)
            ctx.set(dut.rready, 1)
            (value,) = await ctx.tick().sample(dut.rdata).until(dut.rvalid)
            return value

        for k, name in enumerate(WIDE):
            before = (k + 1 << 32) - 1
            ctx.set(getattr(dut, name.lower()), before)
            low = await read(name)
            ctx.set(getattr(dut, name.lower()), before + 1)  # carries between the two reads
            assert (
                counted(
                    {n: 0 for w in WIDE for n in (w, f"{w}_HIGH")} | {name: low, f"{name}_HIGH": await read(f"{name}_HIGH")}
                )[name]
                == before
            )
            assert (await read(name), await read(f"{name}_HIGH")) == (0, k + 1)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
