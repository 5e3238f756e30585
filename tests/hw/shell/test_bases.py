"""The control port of a vendor shell: base addresses, the overlay's registers behind it, resets."""

from __future__ import annotations

import pytest
from amaranth.hdl import Elaboratable, Module, ResetInserter
from amaranth.lib.wiring import Out
from amaranth.sim import Simulator, SimulatorContext

from hw.control.host import RESET_CYCLES, HostRegisters
from hw.shell.bases import ShellRegisters
from skipopu import shell
from skipopu.isa.registers import HOST, MAGIC
from skipopu.machine.config import Machine


class Behind(Elaboratable):
    """The overlay's registers behind the shell's, in reset when it says so."""

    def __init__(self) -> None:
        self.shell, self.registers = ShellRegisters(2), HostRegisters(Machine.load("mono"))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.shell = self.shell
        m.submodules.registers = ResetInserter(self.shell.reset)(self.registers)
        ours, theirs = self.shell.host, self.registers
        for name, member in ours.signature.members.items():
            ends = getattr(theirs, name), getattr(ours, name)
            m.d.comb += ends[0].eq(ends[1]) if member.flow is Out else ends[1].eq(ends[0])
        return m


@pytest.mark.parametrize("gap", range(RESET_CYCLES + 3))
def test_accesses_around_a_reset_are_answered(gap: int) -> None:
    dut = Behind()
    port = dut.shell

    async def access(ctx: SimulatorContext, address: int, value: int | None = None) -> int:
        write = value is not None
        ctx.set(port.control.awaddr if write else port.control.araddr, address)
        ctx.set(port.control.wdata, value or 0)
        ctx.set(port.control.wstrb, 15)
        valids = (port.control.awvalid, port.control.wvalid) if write else (port.control.arvalid,)
        for valid in valids:
            ctx.set(valid, 1)
        await ctx.tick().until(port.control.awready & port.control.wready if write else port.control.arready)
        for valid in valids:
            ctx.set(valid, 0)
        ctx.set(port.control.bready if write else port.control.rready, 1)
        for _ in range(4 * RESET_CYCLES):
            *_, done, data = await ctx.tick().sample(port.control.bvalid if write else port.control.rvalid, port.control.rdata)
            if done:
                return data
        raise AssertionError("no answer")

    async def bench(ctx: SimulatorContext) -> None:
        await access(ctx, shell.RESET, 1)
        await ctx.tick().repeat(gap) if gap else None
        assert await access(ctx, HOST["MAGIC"].address) == MAGIC
        await access(ctx, shell.RESET, 1)
        await ctx.tick().repeat(gap) if gap else None
        await access(ctx, HOST["PROGRAM"].address, 5)
        assert await access(ctx, HOST["PROGRAM"].address) == 5

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def test_control_port_is_split() -> None:
    """The overlay's registers behind it, bases kept with their strobes, a write resets."""
    dut = ShellRegisters(3)
    overlay: dict[int, int] = {}
    log: list[int] = []

    async def write(ctx: SimulatorContext, address: int, value: int, strobe: int = 15) -> None:
        ctx.set(dut.control.awaddr, address)
        ctx.set(dut.control.wdata, value)
        ctx.set(dut.control.wstrb, strobe)
        ctx.set(dut.control.awvalid, 1)
        ctx.set(dut.control.wvalid, 1)
        await ctx.tick().until(dut.control.awready & dut.control.wready)
        ctx.set(dut.control.awvalid, 0)
        ctx.set(dut.control.wvalid, 0)
        ctx.set(dut.control.bready, 1)
        await ctx.tick().until(dut.control.bvalid)
        ctx.set(dut.control.bready, 0)

    async def read(ctx: SimulatorContext, address: int) -> int:
        ctx.set(dut.control.araddr, address)
        ctx.set(dut.control.arvalid, 1)
        await ctx.tick().until(dut.control.arready)
        ctx.set(dut.control.arvalid, 0)
        ctx.set(dut.control.rready, 1)
        (value,) = await ctx.tick().sample(dut.control.rdata).until(dut.control.rvalid)
        ctx.set(dut.control.rready, 0)
        return value

    async def bench(ctx: SimulatorContext) -> None:
        await write(ctx, HOST["PROGRAM"].address, 0x1234)
        await write(ctx, shell.base_register(1), 0x5678_9000)
        await write(ctx, shell.base_register(1) + 4, 0xABCD_0012)
        await write(ctx, shell.base_register(1) + 4, 0xFFFF_0042, strobe=0b0001)
        assert overlay == {HOST["PROGRAM"].address: 0x1234}
        assert ctx.get(dut.base[1]) == 0xABCD_0042_5678_9000
        assert ctx.get(dut.base[0]) == ctx.get(dut.base[2]) == 0
        assert await read(ctx, HOST["PROGRAM"].address) == 0x1234
        assert await read(ctx, shell.base_register(1) + 4) == 0xABCD_0042
        assert not log
        await write(ctx, shell.RESET, 1)
        await ctx.tick().repeat(2 * RESET_CYCLES)
        assert len(log) == RESET_CYCLES

    async def host(ctx: SimulatorContext) -> None:
        ctx.set(dut.host.awready, 1)
        ctx.set(dut.host.wready, 1)
        ctx.set(dut.host.arready, 1)
        while True:
            values = await ctx.tick().sample(
                dut.host.awvalid,
                dut.host.awaddr,
                dut.host.wdata,
                dut.host.arvalid,
                dut.host.araddr,
                dut.host.bready,
                dut.host.rready,
                dut.reset,
            )
            _, _, awvalid, awaddr, wdata, arvalid, araddr, bready, rready, reset = values
            if awvalid:
                overlay[awaddr] = wdata
                ctx.set(dut.host.bvalid, 1)
            elif bready:
                ctx.set(dut.host.bvalid, 0)
            if arvalid:
                ctx.set(dut.host.rdata, overlay[araddr])
                ctx.set(dut.host.rvalid, 1)
            elif rready:
                ctx.set(dut.host.rvalid, 0)
            if reset:
                log.append(1)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.add_testbench(host, background=True)
    simulator.run()
