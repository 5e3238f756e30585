"""The gearbox between two clocks: every beat comes back whole, whatever the clocks and the pauses."""

from __future__ import annotations

import random
from collections import deque

import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.shell.bases import BASE_BITS
from hw.shell.gearbox import Gearbox

BITS = 64
BASE = (1 << BASE_BITS) - (1 << 33)  # of the memory
HALF = BITS // 16  # bytes of a narrow beat


@pytest.mark.parametrize("fast", [0.5, 0.47, 1.3], ids=["twice", "a little more", "slower"])
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_gearbox(fast: float, stall: float) -> None:
    """Random bursts of several IDs, read data interleaved: every wide beat comes back whole, in its ID's order."""
    dut, source = Gearbox(BITS, BASE_BITS), random.Random(7)
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
            ctx.set(dut.wide.araddr, BASE + address)
            ctx.set(dut.wide.arid, name)
            ctx.set(dut.wide.arlen, count - 1)
            ctx.set(dut.wide.arvalid, 1)
            await ctx.tick().until(dut.wide.arready)
            ctx.set(dut.wide.arvalid, 0)
            while not goes():
                await ctx.tick()

    async def take(ctx: SimulatorContext) -> None:
        came = cycles = 0
        while came < beats:
            ctx.set(dut.wide.rready, goes())
            _, _, valid, ready, data, name, last, response = await ctx.tick().sample(
                dut.wide.rvalid, dut.wide.rready, dut.wide.rdata, dut.wide.rid, dut.wide.rlast, dut.wide.rresp
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
            ctx.set(dut.wide.awaddr, BASE + address)
            ctx.set(dut.wide.awlen, count - 1)
            ctx.set(dut.wide.awvalid, 1)
            await ctx.tick().until(dut.wide.awready)
            ctx.set(dut.wide.awvalid, 0)
            for k, (data, strobe) in enumerate(beats):
                while not goes():
                    await ctx.tick()
                ctx.set(dut.wide.wdata, data)
                ctx.set(dut.wide.wstrb, strobe)
                ctx.set(dut.wide.wlast, k == count - 1)
                ctx.set(dut.wide.wvalid, 1)
                await ctx.tick().until(dut.wide.wready)
                ctx.set(dut.wide.wvalid, 0)
            ctx.set(dut.wide.bready, 1)
            await ctx.tick().until(dut.wide.bvalid)
            ctx.set(dut.wide.bready, 0)
        finished[0] += 1

    async def answer(ctx: SimulatorContext) -> None:
        queues: dict[int, deque[tuple[int, int]]] = {i: deque() for i in range(3)}
        while True:
            ctx.set(dut.narrow.arready, goes())
            some = [i for i in queues if queues[i]]
            chosen = source.choice(some) if some and goes() else None
            ctx.set(dut.narrow.rvalid, chosen is not None)
            if chosen is not None:
                address, left = queues[chosen][0]
                ctx.set(dut.narrow.rid, chosen)
                ctx.set(dut.narrow.rdata, int.from_bytes(before[address : address + HALF], "little"))
                ctx.set(dut.narrow.rlast, left == 1)
            values = await ctx.tick("memory").sample(
                dut.narrow.rready, dut.narrow.arvalid, dut.narrow.arready, dut.narrow.araddr, dut.narrow.arlen, dut.narrow.arid
            )
            if chosen is not None and values[2]:
                address, left = queues[chosen].popleft()
                if left > 1:
                    queues[chosen].appendleft((address + HALF, left - 1))
            if values[3] and values[4]:
                queues[values[7]].append((values[5] - BASE, values[6] + 1))

    async def keep(ctx: SimulatorContext) -> None:
        while True:
            ctx.set(dut.narrow.awready, 1)
            _, _, valid, address, length, size = await ctx.tick("memory").sample(
                dut.narrow.awvalid, dut.narrow.awaddr, dut.narrow.awlen, dut.narrow.awsize
            )
            if not valid:
                continue
            ctx.set(dut.narrow.awready, 0)
            assert 1 << size == HALF
            address, left = address - BASE, length + 1
            while left:
                ctx.set(dut.narrow.wready, goes())
                _, _, valid, ready, data, strobe, last = await ctx.tick("memory").sample(
                    dut.narrow.wvalid, dut.narrow.wready, dut.narrow.wdata, dut.narrow.wstrb, dut.narrow.wlast
                )
                if valid and ready:
                    for k in range(HALF):
                        if strobe >> k & 1:
                            memory[address + k] = data >> 8 * k & 255
                    address, left = address + HALF, left - 1
                    assert last == (left == 0)
            ctx.set(dut.narrow.wready, 0)
            ctx.set(dut.narrow.bvalid, 1)
            ready = 0
            while not ready:
                _, _, ready = await ctx.tick("memory").sample(dut.narrow.bready)
            ctx.set(dut.narrow.bvalid, 0)

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
                ctx.set(dut.narrow.rvalid, 1)
                ctx.set(dut.narrow.rresp, response)
                await ctx.tick("memory").until(dut.narrow.rready)
        ctx.set(dut.narrow.rvalid, 0)

    async def take(ctx: SimulatorContext) -> None:
        ctx.set(dut.wide.rready, 1)
        for _ in range(4):
            (response,) = await ctx.tick().sample(dut.wide.rresp).until(dut.wide.rvalid)
            seen.append(response)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_clock(5e-9, domain="memory")
    simulator.add_testbench(answer)
    simulator.add_testbench(take)
    simulator.run()
    assert seen == [0, 2, 3, 0]
