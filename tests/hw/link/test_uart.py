"""The serial line: bytes through both ends, what disturbs them, a break."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream
from amaranth.lib.wiring import connect, flipped
from amaranth.sim import Simulator, SimulatorContext

from hw.component import Component, given, gives
from hw.link.uart import DIVISOR_BITS, FRAME_BITS, UartReceiver, UartTransmitter
from skipopu.link import BREAK
from tests.hw.bench import exercise


class Loop(Component):
    """A transmitter and a receiver at the two ends of a line.

    Latency: a byte's ten bits, less half of its stop bit. Throughput: a byte per ten bits and a cycle.
    """

    def __init__(self) -> None:
        self.divisor = given(DIVISOR_BITS, "cycles per bit")
        self.sent = given(stream.Signature(8), "bytes to send")
        self.came = gives(stream.Signature(8), "bytes that came")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.transmitter, m.submodules.receiver = transmitter, receiver = UartTransmitter(), UartReceiver()
        connect(m, flipped(self.sent), transmitter.bytes)
        connect(m, flipped(self.came), receiver.bytes)
        m.d.comb += [
            receiver.line.eq(transmitter.line),
            transmitter.divisor.eq(self.divisor),
            receiver.divisor.eq(self.divisor),
        ]
        return m


@pytest.mark.parametrize("divisor", [4, 5, 9])
def test_bytes_pass(divisor: int) -> None:
    """The line waits for nobody: bytes come as fast as they are sent, so the far end must not hold back for longer."""
    dut, data = Loop(), [0x00, 0xFF, 0x55, 0xA6, 0x01, 0x80]
    run = exercise(dut, {dut.sent: data}, {dut.came: data}, constants=[(dut.divisor, divisor)], seeds=())
    between = FRAME_BITS * divisor + 1
    assert run.taken[dut.sent] == [k * between for k in range(len(data))]
    # To the line, through the synchroniser, to the middle of the stop bit, into the register.
    latency = 1 + 2 + divisor // 2 + (FRAME_BITS - 1) * divisor + 1
    assert run.given[dut.came] == [latency + k * between for k in range(len(data))]


def test_the_line_is_high_between_bytes() -> None:
    dut, levels = UartTransmitter(), []

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.divisor, 4)
        ctx.set(dut.bytes.payload, 0x0F)
        ctx.set(dut.bytes.valid, 1)
        await ctx.tick()
        ctx.set(dut.bytes.valid, 0)
        for _ in range(60):
            levels.append(ctx.get(dut.line))
            await ctx.tick()
        assert ctx.get(dut.idle)

    simulate(dut, bench)
    assert levels == [0] * 4 + [1] * 16 + [0] * 16 + [1] * 24


def test_a_disturbance_and_a_missing_stop_bit_give_no_byte() -> None:
    dut, seen = UartReceiver(), []

    async def bench(ctx: SimulatorContext) -> None:
        async def bits(*levels: int) -> None:
            for level in levels:
                ctx.set(dut.line, level)
                for _ in range(8):
                    if ctx.get(dut.bytes.valid):
                        seen.append(ctx.get(dut.bytes.payload))
                    await ctx.tick()

        ctx.set(dut.divisor, 8)
        ctx.set(dut.bytes.ready, 1)
        await bits(1)
        ctx.set(dut.line, 0)
        await ctx.tick().repeat(2)
        await bits(1, 1)
        assert not seen, "no start bit"
        await bits(0, *[1, 0] * 4, 0, 1, 1)
        assert not seen, "no stop bit"
        await bits(0, *[1, 0] * 4, 1, 1)
        assert seen == [0x55]

    simulate(dut, bench)


def test_a_byte_that_nobody_takes_stays_and_the_next_is_lost() -> None:
    dut = UartReceiver()

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.divisor, 4)
        for byte in (0x12, 0x34):
            for level in (0, *(byte >> k & 1 for k in range(8)), 1, 1):
                ctx.set(dut.line, level)
                await ctx.tick().repeat(4)
            assert (ctx.get(dut.bytes.valid), ctx.get(dut.bytes.payload)) == (1, 0x12)

    simulate(dut, bench)


@pytest.mark.slow
def test_a_break_is_seen() -> None:
    dut = UartReceiver()

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.divisor, 8)
        ctx.set(dut.line, 0)
        await ctx.tick().repeat(BREAK + 1)  # two of its registers before
        assert not ctx.get(dut.broken)
        await ctx.tick()
        assert ctx.get(dut.broken)
        ctx.set(dut.line, 1)
        await ctx.tick().repeat(4)
        assert not ctx.get(dut.broken)
        assert not ctx.get(dut.bytes.valid), "a byte without a stop bit"

    simulate(dut, bench)


def simulate(dut: UartReceiver | UartTransmitter, bench: object) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
