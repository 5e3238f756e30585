"""The device's end of the host link, byte by byte over its line."""

from __future__ import annotations

import struct

from amaranth.sim import Simulator, SimulatorContext

from hw.link.link import HostLink
from skipopu.link import LINK, MAGIC, Link, Operation, Status, parse_answer, request

MEMORY_BYTES, CLOCK = 4096, 1_000_000


class Wire:
    """Drives and samples :class:`HostLink`'s line in Amaranth's simulator, ``divisor`` cycles per bit."""

    def __init__(self, ctx: SimulatorContext, dut: HostLink, divisor: int) -> None:
        self.ctx, self.dut, self.divisor = ctx, dut, divisor

    async def send(self, data: bytes) -> None:
        for byte in data:
            for bit in [0, *(byte >> k & 1 for k in range(8)), 1]:
                self.ctx.set(self.dut.rx, bit)
                await self.ctx.tick().repeat(self.divisor)

    async def receive(self, patience: int = 4000) -> bytes:
        """Until one whole answer, or ``patience`` cycles without a start bit."""
        data = b""
        while True:
            for _ in range(patience):
                if not self.ctx.get(self.dut.tx):
                    break
                await self.ctx.tick()
            else:
                return data
            await self.ctx.tick().repeat(self.divisor + self.divisor // 2)
            byte = 0
            for k in range(8):
                byte |= self.ctx.get(self.dut.tx) << k
                await self.ctx.tick().repeat(self.divisor)
            data += bytes([byte])
            if parse_answer(data)[0] is not None:
                return data


def simulate_link(bench: object) -> None:
    dut = HostLink(MEMORY_BYTES, CLOCK, 8)
    memory: dict[int, int] = {}

    async def slave(ctx: SimulatorContext) -> None:
        while True:
            _, _, valid, write, address, data = await ctx.tick().sample(
                dut.access_valid, dut.access_write, dut.access_address, dut.access_data
            )
            if valid and not ctx.get(dut.access_ready):
                if write:
                    memory[address] = data
                ctx.set(dut.access_result, memory.get(address, 0))
                ctx.set(dut.access_ready, 1)
            else:
                ctx.set(dut.access_ready, 0)

    async def run(ctx: SimulatorContext) -> None:
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(4)
        await bench(Wire(ctx, dut, 8), memory)  # type: ignore[operator]

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(run)
    simulator.add_testbench(slave, background=True)
    simulator.run()


def test_hardware_link() -> None:
    async def bench(wire: Wire, memory: dict[int, int]) -> None:
        async def ask(*arguments: object) -> tuple[int, int, bytes]:
            await wire.send(request(*arguments))  # type: ignore[arg-type]
            found, _ = parse_answer(await wire.receive())
            assert found is not None
            return found.sequence, found.status, found.payload

        assert await ask(1, Operation.READ, LINK + Link.MAGIC, 2) == (1, Status.OK, struct.pack("<II", MAGIC, MEMORY_BYTES))
        words = struct.pack("<3I", 0x11223344, 5, 0xFFFFFFFF)
        assert await ask(2, Operation.WRITE, 0x40, 3, words) == (2, Status.OK, b"")
        assert memory == {0x40: 0x11223344, 0x44: 5, 0x48: 0xFFFFFFFF}
        assert await ask(3, Operation.READ, 0x40, 3) == (3, Status.OK, words)
        # The same sequence number again: answered, not executed.
        memory.clear()
        assert await ask(2, Operation.WRITE, 0x40, 3, words) == (2, Status.OK, b"")
        assert memory == {}
        assert await ask(4, Operation.READ, MEMORY_BYTES, 1) == (4, Status.ADDRESS, b"")
        assert await ask(5, Operation.READ, LINK + 0x40, 1) == (5, Status.ADDRESS, b"")
        assert await ask(6, 9, 0, 1) == (6, Status.ADDRESS, b"")
        assert await ask(7, Operation.READ, 0, 0) == (7, Status.OK, b"")
        # Damaged and foreign bytes are not answered, what follows is.
        damaged = bytearray(request(8, Operation.WRITE, 0x40, 1, b"abcd"))
        damaged[9] ^= 4
        await wire.send(bytes(damaged) + b"\x00\xff")
        assert await wire.receive(1000) == b""
        assert memory == {}
        assert await ask(9, Operation.READ, LINK + Link.MAGIC, 1) == (9, Status.OK, struct.pack("<I", MAGIC))
        # Two requests back to back.
        await wire.send(request(10, Operation.WRITE, 0x80, 1, b"wxyz") + request(11, Operation.WRITE, 0x84, 1, b"1234"))
        await wire.ctx.tick().repeat(100)
        assert memory == {0x80: int.from_bytes(b"wxyz", "little"), 0x84: int.from_bytes(b"1234", "little")}

    simulate_link(bench)


def test_an_access_is_made_once() -> None:
    """A memory that answers in the cycle of the question sees each word once."""
    dut, seen = HostLink(MEMORY_BYTES, CLOCK, 8), []

    async def slave(ctx: SimulatorContext) -> None:
        ctx.set(dut.access_ready, 1)
        while True:
            _, _, valid, write, address = await ctx.tick().sample(dut.access_valid, dut.access_write, dut.access_address)
            seen.extend([(write, address)] if valid else [])

    async def run(ctx: SimulatorContext) -> None:
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(4)
        wire = Wire(ctx, dut, 8)
        for sequence, operation, words in ((1, Operation.WRITE, b"abcdefgh"), (2, Operation.READ, b"")):
            await wire.send(request(sequence, operation, 0x40, 2, words))
            assert parse_answer(await wire.receive())[0] is not None

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(run)
    simulator.add_testbench(slave, background=True)
    simulator.run()
    assert seen == [(1, 0x40), (1, 0x44), (0, 0x40), (0, 0x44)]


def test_hardware_link_changes_its_rate() -> None:
    async def bench(wire: Wire, memory: dict[int, int]) -> None:
        await wire.send(request(1, Operation.WRITE, LINK + Link.DIVISOR, 1, struct.pack("<I", 5)))
        assert parse_answer(await wire.receive())[0] is not None
        await wire.ctx.tick().repeat(30)
        wire.divisor = 5
        await wire.send(request(2, Operation.READ, LINK + Link.DIVISOR, 1))
        found, _ = parse_answer(await wire.receive())
        assert found is not None
        assert found.payload == struct.pack("<I", 5)

    simulate_link(bench)
