"""Block RAM behind a port: bursts, stalls, single words in between, addresses where nothing lies."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.memory.block_ram import DECODE_ERROR, LATENCY, BlockRam
from skipopu.machine.config import Machine

MACHINE = Machine.load("ulx3s")
SIZE = 4096 + 2048 + 512  # three memories


async def write_burst(ctx: SimulatorContext, dut: BlockRam, address: int, beats: list[tuple[int, int]]) -> int:
    """(data, strobe) beats; the response."""
    ctx.set(dut.port_awaddr, address)
    ctx.set(dut.port_awlen, len(beats) - 1)
    ctx.set(dut.port_awvalid, 1)
    await ctx.tick().until(dut.port_awready)
    ctx.set(dut.port_awvalid, 0)
    for k, (data, strobe) in enumerate(beats):
        ctx.set(dut.port_wdata, data)
        ctx.set(dut.port_wstrb, strobe)
        ctx.set(dut.port_wlast, k == len(beats) - 1)
        ctx.set(dut.port_wvalid, 1)
        await ctx.tick().until(dut.port_wready)
    ctx.set(dut.port_wvalid, 0)
    ctx.set(dut.port_bready, 1)
    (response,) = await ctx.tick().sample(dut.port_bresp).until(dut.port_bvalid)
    ctx.set(dut.port_bready, 0)
    return response


async def access(ctx: SimulatorContext, dut: BlockRam, address: int, value: int | None = None) -> int:
    """One word in, or out."""
    ctx.set(dut.access_address, address)
    ctx.set(dut.access_write, value is not None)
    ctx.set(dut.access_data, value or 0)
    ctx.set(dut.access_valid, 1)
    (result,) = await ctx.tick().sample(dut.access_result).until(dut.access_ready)
    ctx.set(dut.access_valid, 0)
    return result


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_bursts_and_words(stall: float) -> None:
    dut, source = BlockRam(MACHINE, SIZE), random.Random(3)
    model = bytearray(SIZE)
    bursts = [(8 * source.randrange(SIZE // 8 - 16), source.randrange(1, 17), source.randrange(3)) for _ in range(60)]
    finished = [0]

    async def bench(ctx: SimulatorContext) -> None:
        for address in range(0, SIZE, 128):
            beats = [(source.getrandbits(64), source.choice([255, 255, source.randrange(256)])) for _ in range(16)]
            assert await write_burst(ctx, dut, address, beats) == 0
            for k, (data, strobe) in enumerate(beats):
                for b in range(8):
                    if strobe >> b & 1:
                        model[address + 8 * k + b] = data >> 8 * b & 255
        for _ in range(50):
            address, value = 4 * source.randrange(SIZE // 4), source.getrandbits(32)
            await access(ctx, dut, address, value)
            model[address : address + 4] = value.to_bytes(4, "little")
        finished[0] = 1

    async def ask(ctx: SimulatorContext) -> None:
        while not finished[0]:
            await ctx.tick()
        for address, count, name in bursts:
            ctx.set(dut.port_araddr, address)
            ctx.set(dut.port_arlen, count - 1)
            ctx.set(dut.port_arid, name)
            ctx.set(dut.port_arvalid, 1)
            await ctx.tick().until(dut.port_arready)
        ctx.set(dut.port_arvalid, 0)

    async def take(ctx: SimulatorContext) -> None:
        while not finished[0]:
            await ctx.tick()
        cycles = 0
        for address, count, name in bursts:
            for k in range(count):
                taken = False
                while not taken:
                    ctx.set(dut.port_rready, source.random() >= stall)
                    _, _, valid, ready, data, last, identity, response = await ctx.tick().sample(
                        dut.port_rvalid, dut.port_rready, dut.port_rdata, dut.port_rlast, dut.port_rid, dut.port_rresp
                    )
                    cycles, taken = cycles + 1, bool(valid and ready)
                assert data.to_bytes(8, "little") == model[address + 8 * k : address + 8 * k + 8]
                assert (last, identity, response) == (k == count - 1, name, 0)
        if not stall:
            assert cycles <= sum(count for _, count, _ in bursts) + LATENCY + 2, "a beat per cycle, bursts without a gap"
        finished[0] = 2

    async def words(ctx: SimulatorContext) -> None:
        """Behind all bursts."""
        while finished[0] < 2:
            await ctx.tick()
        for _ in range(40):
            address = 4 * source.randrange(SIZE // 4)
            assert (await access(ctx, dut, address)).to_bytes(4, "little") == model[address : address + 4]
        finished[0] = 3

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    for part in (bench, ask, take, words):
        simulator.add_testbench(part)
    simulator.run()
    assert finished == [3]


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_words_between_bursts(stall: float) -> None:
    """Neither way waits for ever for the other: bursts that are asked for without a pause, words read all the while."""
    dut, source = BlockRam(MACHINE, SIZE), random.Random(5)
    longest, bursts = 8, 120
    content = [source.getrandbits(64) for _ in range(16)]
    asked: list[tuple[int, int]] = []
    waits: list[int] = []
    ended = False

    async def ask(ctx: SimulatorContext) -> None:
        nonlocal ended
        assert await write_burst(ctx, dut, 0, [(word, 255) for word in content]) == 0
        for _ in range(bursts):
            first, count = source.randrange(8), source.randrange(1, longest + 1)
            asked.append((first, count))
            ctx.set(dut.port_araddr, 8 * first)
            ctx.set(dut.port_arlen, count - 1)
            ctx.set(dut.port_arvalid, 1)
            await ctx.tick().until(dut.port_arready)
        ctx.set(dut.port_arvalid, 0)
        ended = True

    async def take(ctx: SimulatorContext) -> None:
        burst, beat = 0, 0
        while burst < bursts:
            ctx.set(dut.port_rready, source.random() >= stall)
            _, _, valid, ready, data, last = await ctx.tick().sample(
                dut.port_rvalid, dut.port_rready, dut.port_rdata, dut.port_rlast
            )
            if valid and ready:
                first, count = asked[burst]
                assert (data, last) == (content[first + beat], beat == count - 1)
                burst, beat = (burst + 1, 0) if last else (burst, beat + 1)

    async def words(ctx: SimulatorContext) -> None:
        while not asked:
            await ctx.tick()
        while not ended:
            number = source.randrange(32)
            ctx.set(dut.access_address, 4 * number)
            ctx.set(dut.access_write, 0)
            ctx.set(dut.access_valid, 1)
            waited, ready = 0, 0
            while not ready:
                *_, ready, result = await ctx.tick().sample(dut.access_ready, dut.access_result)
                waited += 1
            assert result == content[number // 2] >> 32 * (number % 2) & 0xFFFF_FFFF
            waits.append(waited)
            ctx.set(dut.access_valid, 0)
            await ctx.tick().repeat(source.randrange(1, 4))

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    for part in (ask, take, words):
        simulator.add_testbench(part)
    simulator.run()
    assert len(waits) > bursts // 4
    if not stall:
        assert max(waits) <= 2 * longest + LATENCY + 5, "two bursts, and the access itself"


def test_a_word_takes_four_cycles() -> None:
    dut = BlockRam(MACHINE, SIZE)

    async def bench(ctx: SimulatorContext) -> None:
        assert await write_burst(ctx, dut, 0, [(0x1122334455667788, 255)]) == 0
        ctx.set(dut.access_address, 4)
        ctx.set(dut.access_valid, 1)
        ready = [ctx.get(dut.access_ready)]
        while not ready[-1]:
            await ctx.tick()
            ready.append(ctx.get(dut.access_ready))
        assert (len(ready) - 1, ctx.get(dut.access_result)) == (4, 0x11223344)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def test_outside() -> None:
    """Decode errors for what lies behind the end, also inside a burst; nothing is written there."""
    dut = BlockRam(MACHINE, SIZE)

    async def bench(ctx: SimulatorContext) -> None:
        assert await write_burst(ctx, dut, SIZE - 8, [(0x1111, 255)]) == 0
        assert await write_burst(ctx, dut, SIZE - 8, [(0x2222, 255), (0x3333, 255)]) == DECODE_ERROR
        assert await write_burst(ctx, dut, 1 << 39, [(0x4444, 255)]) == DECODE_ERROR
        assert await access(ctx, dut, 0) == 0
        ctx.set(dut.port_araddr, SIZE - 8)
        ctx.set(dut.port_arlen, 1)
        ctx.set(dut.port_arvalid, 1)
        ctx.set(dut.port_rready, 1)
        await ctx.tick().until(dut.port_arready)
        ctx.set(dut.port_arvalid, 0)
        for expected in ((0x2222, 0), (None, DECODE_ERROR)):
            data, response = await ctx.tick().sample(dut.port_rdata, dut.port_rresp).until(dut.port_rvalid)
            assert response == expected[1]
            assert expected[0] in (None, data)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def test_the_longest_burst() -> None:
    dut, beats = BlockRam(MACHINE, SIZE), 256
    assert 8 * beats <= SIZE

    async def bench(ctx: SimulatorContext) -> None:
        assert await write_burst(ctx, dut, 0, [(3 * k + 1, 255) for k in range(beats)]) == 0
        ctx.set(dut.port_arlen, beats - 1)
        ctx.set(dut.port_arvalid, 1)
        ctx.set(dut.port_rready, 1)
        await ctx.tick().until(dut.port_arready)
        ctx.set(dut.port_arvalid, 0)
        seen = []
        for _ in range(beats + LATENCY):
            *_, valid, data, last = await ctx.tick().sample(dut.port_rvalid, dut.port_rdata, dut.port_rlast)
            seen += [(data, last)] if valid else []
        assert seen == [(3 * k + 1, k == beats - 1) for k in range(beats)]

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("address", [1 << 32, 1 << 39, (1 << 40) - 8])
def test_nothing_lies_at_high_addresses(address: int) -> None:
    """Not what lies at the same ones below."""
    dut = BlockRam(MACHINE, SIZE)

    async def bench(ctx: SimulatorContext) -> None:
        assert await write_burst(ctx, dut, address, [(0x5555, 255)]) == DECODE_ERROR
        ctx.set(dut.port_araddr, address)
        ctx.set(dut.port_arvalid, 1)
        ctx.set(dut.port_rready, 1)
        await ctx.tick().until(dut.port_arready)
        ctx.set(dut.port_arvalid, 0)
        (response,) = await ctx.tick().sample(dut.port_rresp).until(dut.port_rvalid)
        assert response == DECODE_ERROR
        for at in (0, SIZE - 8):
            assert await access(ctx, dut, at) == 0

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
