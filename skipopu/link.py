"""The byte protocol between a host and a board: frames over a serial line, words in an address space.

A request is :data:`REQUEST`, the header, a write's words, and a checksum of everything behind the first byte; the answer is
:data:`ANSWER`, sequence number, status, count, a read's words, and its checksum. Numbers are little endian, the checksum comes with
its upper byte first. A device answers each intact request once, in order, and nothing else; a host repeats what was not answered. A
write with the sequence number of the last executed one is answered without being executed again.
"""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass
from enum import IntEnum

BAUD = 1_000_000  # of the line at first
REQUEST, ANSWER = 0x53, 0x72
HEADER = struct.Struct("<BBBI")  # sequence number, operation, words, byte address
ANSWER_HEADER = struct.Struct("<BBB")  # sequence number, status, words
WORD_BYTES = 4
CHECKSUM_BYTES = 2
CHECKSUM_START = 0xFFFF  # CRC-16/IBM-3740: polynomial 0x1021, most significant bit first
MOST_WORDS = 255  # of a frame
BITS_PER_BYTE = 10  # on the line
STREAMED = 12  # cycles of a bit from which on a device takes the next frame while it executes one and answers
SILENCE = 1 << 20  # cycles without a byte after which a device gives a frame up
BREAK = 1 << 16  # cycles of a low line after which it takes the first rate again

MEMORY = 0x0000_0000  # what lies behind port 0, by byte address
REGISTERS = 0x8000_0000  # the overlay's registers, see skipopu.isa.registers
LINK = 0xC000_0000  # the link's own, see Link
MAGIC = 0x4B4C4B53  # "SKLK"


class Operation(IntEnum):
    READ = 1
    WRITE = 2


class Status(IntEnum):
    """What a device answers."""

    OK = 0
    ADDRESS = 1  # nothing at this address, or no such operation


class Link(IntEnum):
    """Byte offsets of the link's own registers, 32 bits each."""

    MAGIC = 0
    MEMORY_BYTES = 4
    CLOCK_HZ = 8
    DIVISOR = 12  # clock cycles per bit; a write holds from the end of its answer on
    RESET = 16  # a write resets the overlay


def checksum(data: bytes) -> bytes:
    """Two bytes over ``data``."""
    return struct.pack(">H", binascii.crc_hqx(data, CHECKSUM_START))


def request(sequence: int, operation: Operation, address: int, words: int, payload: bytes = b"") -> bytes:
    """A whole frame; ``payload`` are a write's ``words``."""
    body = HEADER.pack(sequence, operation, words, address) + payload
    return bytes([REQUEST]) + body + checksum(body)


@dataclass(frozen=True)
class Answer:
    """One parsed answer; ``payload`` are a read's words."""

    sequence: int
    status: int
    payload: bytes


def parse_answer(data: bytes) -> tuple[Answer | None, int]:
    """(the first intact answer, bytes of ``data`` that are done with); None when it is not complete yet."""
    start = 0
    while (start := data.find(ANSWER, start)) >= 0:
        body = data[start + 1 :]
        if len(body) < ANSWER_HEADER.size:
            return None, start
        sequence, status, words = ANSWER_HEADER.unpack_from(body)
        size = ANSWER_HEADER.size + WORD_BYTES * words
        if len(body) < size + CHECKSUM_BYTES:
            return None, start
        if checksum(body[:size]) == body[size : size + CHECKSUM_BYTES]:
            return Answer(sequence, status, body[ANSWER_HEADER.size : size]), start + 1 + size + CHECKSUM_BYTES
        start += 1
    return None, len(data)
