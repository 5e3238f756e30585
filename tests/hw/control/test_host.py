"""The host's registers keep what is written; counters of 64 bits are consistent while they count."""

from __future__ import annotations

import random

from amaranth.sim import SimulatorContext

from hw.control.host import WRITABLE, HostRegisters
from skipopu.isa.registers import HOST, MAGIC, WIDE, counted
from skipopu.machine.config import Machine
from tests.hw.bench import exercise

MONO = Machine.load("mono")


class Host:
    """A host that lets answers wait. Nothing of it is asked for while the last answer waits."""

    def __init__(self, dut: HostRegisters, ctx: SimulatorContext, stalls: random.Random | None) -> None:
        self.dut, self.bus, self.ctx, self.stalls = dut, dut.bus, ctx, stalls

    async def wait(self) -> None:
        while self.stalls and self.stalls.random() < 0.4:
            await self.ctx.tick()

    async def write(self, address: int, value: int, strobe: int = 15) -> None:
        bus, ctx = self.bus, self.ctx
        for port, shown in ((bus.awaddr, address), (bus.wdata, value), (bus.wstrb, strobe), (bus.awvalid, 1)):
            ctx.set(port, shown)
        await self.wait()
        ctx.set(bus.wvalid, 1)
        *_, taken = await ctx.tick().sample(bus.awready & bus.wready)
        assert taken
        ctx.set(bus.awvalid, 0)
        ctx.set(bus.wvalid, 0)
        await self.wait()
        ctx.set(bus.bready, 1)
        *_, answered = await ctx.tick().sample(bus.bvalid)
        assert answered
        ctx.set(bus.bready, 0)

    async def read(self, address: int) -> int:
        bus, ctx = self.bus, self.ctx
        await self.wait()
        ctx.set(bus.araddr, address)
        ctx.set(bus.arvalid, 1)
        assert not ctx.get(bus.arready)
        await ctx.tick()
        *_, taken = await ctx.tick().sample(bus.arready)
        assert taken
        ctx.set(bus.arvalid, 0)
        await self.wait()
        ctx.set(bus.rready, 1)
        *_, answered, value = await ctx.tick().sample(bus.rvalid, bus.rdata)
        assert answered
        ctx.set(bus.rready, 0)
        return value


def test_registers_keep_what_is_written() -> None:
    dut, source = HostRegisters(MONO), random.Random(1)

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        host, held = Host(dut, ctx, stalls), dict.fromkeys(WRITABLE, 0)
        for _ in range(30):
            name, value, strobe = source.choice([*WRITABLE, "MAGIC", "STATUS"]), source.getrandbits(32), source.randrange(16)
            await host.write(HOST[name].address, value, strobe)
            if name in held:
                mask = sum(255 << 8 * k for k in range(4) if strobe >> k & 1)
                held[name] = held[name] & ~mask | value & mask
            for other, kept in held.items():
                assert ctx.get(dut.registers[other]) == kept
            read = source.choice(WRITABLE)
            assert await host.read(HOST[read].address) == held[read]
        assert await host.read(HOST["MAGIC"].address) == MAGIC
        assert await host.read(4 * len(HOST)) == 0

    exercise(dut, {}, {}, drive=drive, seeds=range(1))


def test_start_clear_and_abort_last_a_cycle() -> None:
    dut = HostRegisters(MONO)
    counts = {}

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        counts.update(start=0, clear=0, abort=0)
        for value in (1, 2, 3, 0, 4, 12, 6, 8):
            await Host(dut, ctx, stalls).write(HOST["CONTROL"].address, value)
        await Host(dut, ctx, stalls).write(HOST["CONTROL"].address, 7, strobe=0b1110)
        await ctx.tick()
        assert counts == {"start": 2, "clear": 3, "abort": 3}

    async def count(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        while True:
            *_, start, clear, abort = await ctx.tick().sample(dut.request.start, dut.request.clear, dut.request.abort)
            counts["start"] += start
            counts["clear"] += clear
            counts["abort"] += abort

    exercise(dut, {}, {}, drive=drive, beside=count, seeds=range(2))


def test_nothing_is_taken_on_hold() -> None:
    """Not even by the way: what was asked before is answered, and comes through."""
    dut = HostRegisters(MONO)

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        bus = dut.bus
        for port, value in ((bus.awaddr, HOST["CONTROL"].address), (bus.wdata, 7), (bus.wstrb, 15)):
            ctx.set(port, value)
        for port in (bus.awvalid, bus.wvalid, bus.arvalid):
            ctx.set(port, int(port is bus.arvalid))
        await ctx.tick()
        for port in (bus.awvalid, bus.wvalid):
            ctx.set(port, 1)
        await ctx.tick()
        ctx.set(dut.hold, 1)
        for cycle in range(5):
            assert not ctx.get(bus.awready | bus.wready | bus.arready)
            assert ctx.get(dut.request.start) == ctx.get(dut.request.abort) == (cycle == 0)
            assert ctx.get(bus.bvalid & bus.rvalid)
            await ctx.tick()
        ctx.set(dut.hold, 0)
        ctx.set(bus.bready, 1)
        ctx.set(bus.rready, 1)
        assert ctx.get(bus.awready & bus.wready & bus.arready)
        await ctx.tick()
        assert ctx.get(dut.request.start)

    exercise(dut, {}, {}, drive=drive, seeds=())


def test_a_write_per_cycle_and_a_read_every_other() -> None:
    dut = HostRegisters(MONO)
    bus, writes = dut.bus, [(HOST[name].address, 1000 + k) for k, name in enumerate(WRITABLE)]

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        for port in (bus.bready, bus.rready, bus.arvalid, bus.awvalid, bus.wvalid):
            ctx.set(port, 1)
        ctx.set(bus.wstrb, 15)
        for cycle, (address, data) in enumerate(writes):
            ctx.set(bus.awaddr, address)
            ctx.set(bus.wdata, data)
            assert ctx.get(bus.awready & bus.wready)
            assert ctx.get(bus.arready) == cycle % 2
            await ctx.tick()
            assert ctx.get(bus.bvalid)
            assert ctx.get(bus.rvalid) == cycle % 2
            if cycle % 2:
                assert cycle == 1 or ctx.get(bus.rdata) == data - 2
                ctx.set(bus.araddr, address)

    exercise(dut, {}, {}, drive=drive, seeds=())


def test_a_counter_read_in_mid_run_is_one_number() -> None:
    dut = HostRegisters(Machine.load("tiny-masks"))  # which has all of them

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        host = Host(dut, ctx, stalls)
        for k, name in enumerate(WIDE):
            before = (k + 1 << 32) - 1
            ctx.set(dut.registers[name], before)
            values = {half: 0 for wide in WIDE for half in (wide, f"{wide}_HIGH")}
            values[name] = await host.read(HOST[name].address)
            ctx.set(dut.registers[name], before + 1)  # carries between the two reads
            values[f"{name}_HIGH"] = await host.read(HOST[f"{name}_HIGH"].address)
            assert counted(values)[name] == before
            assert await host.read(HOST[name].address) == 0
            assert await host.read(HOST[f"{name}_HIGH"].address) == k + 1

    exercise(dut, {}, {}, drive=drive, seeds=range(1))


def test_nothing_is_taken_while_an_answer_waits() -> None:
    dut = HostRegisters(MONO)
    bus, first, second = dut.bus, HOST["PROGRAM"].address, HOST["MAX_NEW"].address

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        for port, value in ((bus.awaddr, first), (bus.wdata, 1), (bus.wstrb, 15), (bus.araddr, HOST["MAGIC"].address)):
            ctx.set(port, value)
        ctx.set(bus.arvalid, 1)
        await ctx.tick()
        for port in (bus.awvalid, bus.wvalid):
            ctx.set(port, 1)
        await ctx.tick()
        ctx.set(bus.awaddr, second)
        ctx.set(bus.araddr, first)
        for _ in range(3):
            assert not ctx.get(bus.awready | bus.wready | bus.arready)
            assert ctx.get(bus.bvalid & bus.rvalid)
            assert ctx.get(bus.rdata) == MAGIC
            await ctx.tick()
        assert ctx.get(dut.registers["MAX_NEW"]) == 0
        ctx.set(bus.bready, 1)
        ctx.set(bus.rready, 1)
        assert ctx.get(bus.awready & bus.wready & bus.arready)
        await ctx.tick()
        assert ctx.get(bus.rdata) == ctx.get(dut.registers["MAX_NEW"]) == 1

    exercise(dut, {}, {}, drive=drive, seeds=())
