"""The control port of a vendor shell: base addresses, the overlay's registers behind it, resets."""

from __future__ import annotations

import random

import pytest
from amaranth.hdl import Elaboratable, Module, ResetInserter, Value
from amaranth.lib.wiring import Out
from amaranth.sim import Simulator, SimulatorContext

from hw.control.host import RESET_CYCLES, HostRegisters
from hw.shell.bases import ShellRegisters
from skipopu import shell
from skipopu.isa.registers import HOST, MAGIC
from skipopu.machine.config import Machine
from tests.hw.bench import exercise


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


def test_a_read_is_not_put_off() -> None:
    """By writes that begin while it is offered to the overlay's registers: it is taken first."""
    dut = Behind()
    control, host = dut.shell.control, dut.shell.host

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(control.awaddr, HOST["PROGRAM"].address)
        ctx.set(control.araddr, HOST["MAGIC"].address)
        await ctx.tick().repeat(2 * RESET_CYCLES)
        ctx.set(control.arvalid, 1)
        await ctx.tick()
        for port in (control.awvalid, control.wvalid, control.bready):
            ctx.set(port, 1)
        for _ in range(4):
            *_, taken, offered, writes = await ctx.tick().sample(control.arready, host.arvalid, control.awready)
            assert offered
            assert not writes
            if taken:
                return
        raise AssertionError("not taken")

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
        assert len(log) == RESET_CYCLES, "behind the shell's own reset"
        await write(ctx, shell.RESET, 1)
        await ctx.tick().repeat(2 * RESET_CYCLES)
        assert len(log) == 2 * RESET_CYCLES

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


PORTS = 3


class Slow:
    """An overlay that takes accesses and answers them when it likes; what it is given is kept."""

    def __init__(self, dut: ShellRegisters) -> None:
        self.bus, self.written, self.read = dut.host, list[tuple[int, int, int]](), list[int]()

    async def run(self, ctx: SimulatorContext, stalls: random.Random | None) -> None:
        bus, owed = self.bus, {"b": False, "r": False}
        self.written.clear()
        self.read.clear()
        while True:
            goes = {name: not stalls or stalls.random() < 0.3 for name in ("aw", "ar", "b", "r")}
            ctx.set(bus.awready, goes["aw"])
            ctx.set(bus.wready, goes["aw"])
            ctx.set(bus.arready, goes["ar"])
            ctx.set(bus.bvalid, owed["b"] and goes["b"])
            ctx.set(bus.rvalid, owed["r"] and goes["r"])
            ctx.set(bus.rdata, len(self.read) if owed["r"] and goes["r"] else 0xBAD)
            *_, aw, address, data, strobe, ar, wanted, answered, gave = await ctx.tick().sample(
                bus.awvalid & bus.awready & bus.wvalid & bus.wready, bus.awaddr, bus.wdata, bus.wstrb,
                bus.arvalid & bus.arready, bus.araddr, bus.bvalid & bus.bready, bus.rvalid & bus.rready,
            )  # fmt: skip
            owed = {"b": (owed["b"] or bool(aw)) and not answered, "r": (owed["r"] or bool(ar)) and not gave}
            if aw:
                self.written.append((address, data, strobe))
            if ar:
                self.read.append(wanted)


def test_whoever_is_slow() -> None:
    """Every access passes once, with its strobes; its answer stands until it is taken, and nothing else is taken meanwhile."""
    dut = ShellRegisters(PORTS)
    overlay, bus = Slow(dut), dut.control

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        source = random.Random(7)
        written, read, bases = list[tuple[int, int, int]](), list[int](), PORTS * [0]

        async def access(valids: tuple[Value, ...], taken: Value, valid: Value, ready: Value) -> int:
            for port in valids:
                ctx.set(port, 1)
            await ctx.tick().until(taken)
            for port in (bus.awvalid, bus.wvalid, bus.arvalid):  # the next one waits
                ctx.set(port, 1)
            (data,) = await ctx.tick().sample(bus.rdata).until(valid)
            for _ in range(stalls.randrange(4) if stalls else 2):
                assert not ctx.get(bus.awready | bus.wready | bus.arready)
                assert (ctx.get(valid), ctx.get(bus.rdata)) == (1, data)
                await ctx.tick()
            for port in (bus.awvalid, bus.wvalid, bus.arvalid):
                ctx.set(port, 0)
            ctx.set(ready, 1)
            await ctx.tick()
            ctx.set(ready, 0)
            assert not ctx.get(valid)
            return data

        for _ in range(30):
            port, half, address = source.randrange(PORTS), source.randrange(2), 4 * source.randrange(len(HOST))
            own, value, strobe = source.randrange(2), source.getrandbits(32), source.randrange(16)
            target = shell.base_register(port) + 4 * half if own else address
            ctx.set(bus.awaddr, target)
            ctx.set(bus.araddr, target)
            ctx.set(bus.wdata, value)
            ctx.set(bus.wstrb, strobe)
            if source.randrange(2):
                await access((bus.awvalid, bus.wvalid), bus.awready & bus.wready, bus.bvalid, bus.bready)
                kept = sum(255 << 8 * k for k in range(4) if strobe >> k & 1) << 32 * half
                bases[port] = bases[port] & ~kept | value << 32 * half & kept if own else bases[port]
                written += [] if own else [(address, value, strobe)]
            else:
                data = await access((bus.arvalid,), bus.arready, bus.rvalid, bus.rready)
                read += [] if own else [address]
                assert data == (bases[port] >> 32 * half & 0xFFFF_FFFF if own else len(read))
            assert (overlay.written, overlay.read) == (written, read)
            assert [ctx.get(base) for base in dut.base] == bases
        assert all(base >> 32 for base in bases)

    exercise(dut, {}, {}, drive=drive, beside=overlay.run, seeds=range(2), patience=5000)
