"""What a vendor shell adds: gearbox, base addresses, split of the control port."""

from __future__ import annotations

import random
from collections import deque

import pytest
from amaranth.hdl import Elaboratable, Module, ResetInserter
from amaranth.lib.wiring import Out
from amaranth.sim import Simulator, SimulatorContext

from hw.control.host import RESET_CYCLES, HostRegisters
from hw.shell.bases import ShellRegisters
from hw.shell.gearbox import Gearbox
from skipopu import shell
from skipopu.isa.registers import HOST, MAGIC
from skipopu.machine.config import Machine

BITS = 64
HALF = BITS // 16  # bytes of a narrow beat


@pytest.mark.parametrize("fast", [0.5, 0.47, 1.3], ids=["twice", "a little more", "slower"])
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_gearbox(fast: float, stall: float) -> None:
    """Random bursts of several IDs, read data interleaved: every wide beat comes back whole, in its ID's order."""
    dut, source = Gearbox(BITS, 40), random.Random(7)
    memory = bytearray(source.randbytes(4096))
    bursts = [(source.randrange(3), 8 * source.randrange(300), source.randrange(1, 17)) for _ in range(40)]
    writes = [(2048 + 128 * k, source.randrange(1, 17)) for k in range(12)]
    payload = [[(source.getrandbits(BITS), source.randrange(256)) for _ in range(count)] for _, count in writes]
    before = bytes(memory)
    expected = {
        i: deque((before[a + 8 * k : a + 8 * k + 8], k == n - 1) for j, a, n in bursts if j == i for k in range(n))
        for i in range(3)
    }
    beats, finished = sum(n for _, _, n in bursts), [0]

    def goes() -> bool:
        return source.random() >= stall

    async def ask(ctx: SimulatorContext) -> None:
        for name, address, count in bursts:
            ctx.set(dut.wide_araddr, address)
            ctx.set(dut.wide_arid, name)
            ctx.set(dut.wide_arlen, count - 1)
            ctx.set(dut.wide_arvalid, 1)
            await ctx.tick().until(dut.wide_arready)
            ctx.set(dut.wide_arvalid, 0)
            while not goes():
                await ctx.tick()

    async def take(ctx: SimulatorContext) -> None:
        came = cycles = 0
        while came < beats:
            ctx.set(dut.wide_rready, goes())
            _, _, valid, ready, data, name, last, response = await ctx.tick().sample(
                dut.wide_rvalid, dut.wide_rready, dut.wide_rdata, dut.wide_rid, dut.wide_rlast, dut.wide_rresp
            )
            cycles += 1
            if valid and ready:
                assert (data.to_bytes(8, "little"), bool(last)) == expected[name].popleft()
                assert response == 0
                came += 1
        if not stall and fast <= 0.5:
            assert cycles < 1.05 * beats + 40, "a wide beat per cycle"
        finished[0] += 1

    async def store(ctx: SimulatorContext) -> None:
        for (address, count), beats in zip(writes, payload, strict=True):
            ctx.set(dut.wide_awaddr, address)
            ctx.set(dut.wide_awlen, count - 1)
            ctx.set(dut.wide_awvalid, 1)
            await ctx.tick().until(dut.wide_awready)
            ctx.set(dut.wide_awvalid, 0)
            for k, (data, strobe) in enumerate(beats):
                while not goes():
                    await ctx.tick()
                ctx.set(dut.wide_wdata, data)
                ctx.set(dut.wide_wstrb, strobe)
                ctx.set(dut.wide_wlast, k == count - 1)
                ctx.set(dut.wide_wvalid, 1)
                await ctx.tick().until(dut.wide_wready)
                ctx.set(dut.wide_wvalid, 0)
            ctx.set(dut.wide_bready, 1)
            await ctx.tick().until(dut.wide_bvalid)
            ctx.set(dut.wide_bready, 0)
        finished[0] += 1

    async def answer(ctx: SimulatorContext) -> None:
        queues: dict[int, deque[tuple[int, int]]] = {i: deque() for i in range(3)}
        while True:
            ctx.set(dut.narrow_arready, goes())
            some = [i for i in queues if queues[i]]
            chosen = source.choice(some) if some and goes() else None
            ctx.set(dut.narrow_rvalid, chosen is not None)
            if chosen is not None:
                address, left = queues[chosen][0]
                ctx.set(dut.narrow_rid, chosen)
                ctx.set(dut.narrow_rdata, int.from_bytes(before[address : address + HALF], "little"))
                ctx.set(dut.narrow_rlast, left == 1)
            values = await ctx.tick("memory").sample(
                dut.narrow_rready, dut.narrow_arvalid, dut.narrow_arready, dut.narrow_araddr, dut.narrow_arlen, dut.narrow_arid
            )
            if chosen is not None and values[2]:
                address, left = queues[chosen].popleft()
                if left > 1:
                    queues[chosen].appendleft((address + HALF, left - 1))
            if values[3] and values[4]:
                queues[values[7]].append((values[5], values[6] + 1))

    async def keep(ctx: SimulatorContext) -> None:
        while True:
            ctx.set(dut.narrow_awready, 1)
            _, _, valid, address, length, size = await ctx.tick("memory").sample(
                dut.narrow_awvalid, dut.narrow_awaddr, dut.narrow_awlen, dut.narrow_awsize
            )
            if not valid:
                continue
            ctx.set(dut.narrow_awready, 0)
            assert 1 << size == HALF
            left = length + 1
            while left:
                ctx.set(dut.narrow_wready, goes())
                _, _, valid, ready, data, strobe, last = await ctx.tick("memory").sample(
                    dut.narrow_wvalid, dut.narrow_wready, dut.narrow_wdata, dut.narrow_wstrb, dut.narrow_wlast
                )
                if valid and ready:
                    for k in range(HALF):
                        if strobe >> k & 1:
                            memory[address + k] = data >> 8 * k & 255
                    address, left = address + HALF, left - 1
                    assert last == (left == 0)
            ctx.set(dut.narrow_wready, 0)
            ctx.set(dut.narrow_bvalid, 1)
            ready = 0
            while not ready:
                _, _, ready = await ctx.tick("memory").sample(dut.narrow_bready)
            ctx.set(dut.narrow_bvalid, 0)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_clock(fast * 1e-8, domain="memory")
    for bench in (ask, take, store):
        simulator.add_testbench(bench)
    for bench in (answer, keep):
        simulator.add_testbench(bench, background=True)
    simulator.run()
    assert finished == [2]
    wanted = bytearray(before)
    for (address, _), beats in zip(writes, payload, strict=True):
        for k, (data, strobe) in enumerate(beats):
            for b in range(8):
                if strobe >> b & 1:
                    wanted[address + 8 * k + b] = data >> 8 * b & 255
    assert memory == wanted


def test_gearbox_keeps_an_error_of_either_half() -> None:
    dut = Gearbox(BITS, 40)
    seen: list[int] = []

    async def answer(ctx: SimulatorContext) -> None:
        for responses in ((0, 0), (2, 0), (0, 3), (0, 0)):
            for response in responses:
                ctx.set(dut.narrow_rvalid, 1)
                ctx.set(dut.narrow_rresp, response)
                await ctx.tick("memory").until(dut.narrow_rready)
        ctx.set(dut.narrow_rvalid, 0)

    async def take(ctx: SimulatorContext) -> None:
        ctx.set(dut.wide_rready, 1)
        for _ in range(4):
            (response,) = await ctx.tick().sample(dut.wide_rresp).until(dut.wide_rvalid)
            seen.append(response)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_clock(5e-9, domain="memory")
    simulator.add_testbench(answer)
    simulator.add_testbench(take)
    simulator.run()
    assert seen == [0, 2, 3, 0]


class Behind(Elaboratable):
    """The overlay's registers behind the shell's, in reset when it says so."""

    def __init__(self) -> None:
        self.shell, self.registers = ShellRegisters(2), HostRegisters(Machine.load("mono"))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.shell = self.shell
        m.submodules.registers = ResetInserter(self.shell.reset)(self.registers)
        for name, member in self.shell.host.members.items():
            ours, theirs = getattr(self.shell, f"host_{name}"), getattr(self.registers, name)
            m.d.comb += theirs.eq(ours) if member.flow is Out else ours.eq(theirs)
        return m


@pytest.mark.parametrize("gap", range(RESET_CYCLES + 3))
def test_accesses_around_a_reset_are_answered(gap: int) -> None:
    dut = Behind()
    port = dut.shell

    async def access(ctx: SimulatorContext, address: int, value: int | None = None) -> int:
        write = value is not None
        ctx.set(port.control_awaddr if write else port.control_araddr, address)
        ctx.set(port.control_wdata, value or 0)
        ctx.set(port.control_wstrb, 15)
        valids = (port.control_awvalid, port.control_wvalid) if write else (port.control_arvalid,)
        for valid in valids:
            ctx.set(valid, 1)
        await ctx.tick().until(port.control_awready & port.control_wready if write else port.control_arready)
        for valid in valids:
            ctx.set(valid, 0)
        ctx.set(port.control_bready if write else port.control_rready, 1)
        for _ in range(4 * RESET_CYCLES):
            *_, done, data = await ctx.tick().sample(port.control_bvalid if write else port.control_rvalid, port.control_rdata)
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
        ctx.set(dut.control_awaddr, address)
        ctx.set(dut.control_wdata, value)
        ctx.set(dut.control_wstrb, strobe)
        ctx.set(dut.control_awvalid, 1)
        ctx.set(dut.control_wvalid, 1)
        await ctx.tick().until(dut.control_awready & dut.control_wready)
        ctx.set(dut.control_awvalid, 0)
        ctx.set(dut.control_wvalid, 0)
        ctx.set(dut.control_bready, 1)
        await ctx.tick().until(dut.control_bvalid)
        ctx.set(dut.control_bready, 0)

    async def read(ctx: SimulatorContext, address: int) -> int:
        ctx.set(dut.control_araddr, address)
        ctx.set(dut.control_arvalid, 1)
        await ctx.tick().until(dut.control_arready)
        ctx.set(dut.control_arvalid, 0)
        ctx.set(dut.control_rready, 1)
        (value,) = await ctx.tick().sample(dut.control_rdata).until(dut.control_rvalid)
        ctx.set(dut.control_rready, 0)
        return value

    async def bench(ctx: SimulatorContext) -> None:
        await write(ctx, HOST["PROGRAM"].address, 0x1234)
        await write(ctx, shell.base_register(1), 0x5678_9000)
        await write(ctx, shell.base_register(1) + 4, 0xABCD_0012)
        await write(ctx, shell.base_register(1) + 4, 0xFFFF_0042, strobe=0b0001)
        assert overlay == {HOST["PROGRAM"].address: 0x1234}
        assert ctx.get(dut.base_1) == 0xABCD_0042_5678_9000
        assert ctx.get(dut.base_0) == ctx.get(dut.base_2) == 0
        assert await read(ctx, HOST["PROGRAM"].address) == 0x1234
        assert await read(ctx, shell.base_register(1) + 4) == 0xABCD_0042
        assert not log
        await write(ctx, shell.RESET, 1)
        await ctx.tick().repeat(2 * RESET_CYCLES)
        assert len(log) == RESET_CYCLES

    async def host(ctx: SimulatorContext) -> None:
        ctx.set(dut.host_awready, 1)
        ctx.set(dut.host_wready, 1)
        ctx.set(dut.host_arready, 1)
        while True:
            values = await ctx.tick().sample(
                dut.host_awvalid,
                dut.host_awaddr,
                dut.host_wdata,
                dut.host_arvalid,
                dut.host_araddr,
                dut.host_bready,
                dut.host_rready,
                dut.reset,
            )
            _, _, awvalid, awaddr, wdata, arvalid, araddr, bready, rready, reset = values
            if awvalid:
                overlay[awaddr] = wdata
                ctx.set(dut.host_bvalid, 1)
            elif bready:
                ctx.set(dut.host_bvalid, 0)
            if arvalid:
                ctx.set(dut.host_rdata, overlay[araddr])
                ctx.set(dut.host_rvalid, 1)
            elif rready:
                ctx.set(dut.host_rvalid, 0)
            if reset:
                log.append(1)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.add_testbench(host, background=True)
    simulator.run()
