"""The host's end of the link: requests with checksums, several under way, repeated until they are answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from skipopu.errors import SkipopuError
from skipopu.link import (
    ANSWER_HEADER,
    BITS_PER_BYTE,
    CHECKSUM_BYTES,
    LINK,
    MAGIC,
    MOST_WORDS,
    STREAMED,
    WORD_BYTES,
    Link,
    Operation,
    Status,
    parse_answer,
    request,
)

WINDOW = 8  # requests under way, where the device takes them without a pause
TRIES = 5


class LinkError(SkipopuError):
    """A board that does not answer, or answers something else than it was asked."""


class Port(Protocol):
    """What is used of :class:`serial.Serial`; :class:`sim.ulx3s.port.SimulatedPort` has it too."""

    @property
    def baudrate(self) -> int: ...
    @baudrate.setter
    def baudrate(self, value: int, /) -> None: ...
    @property
    def timeout(self) -> float | None: ...
    @timeout.setter
    def timeout(self, value: float | None, /) -> None: ...
    @property
    def in_waiting(self) -> int: ...

    def write(self, data: bytes, /) -> int | None: ...
    def read(self, size: int = 1, /) -> bytes: ...
    def send_break(self, duration: float = 0.25) -> None: ...
    def reset_input_buffer(self) -> None: ...
    def close(self) -> None: ...


@dataclass
class _Waiting:
    index: int
    frame: bytes
    what: str
    answer_bytes: int
    sent: float
    tries: int = 1


class Line:
    """Words of a board's address space (:mod:`skipopu.link`) over ``port``.

    ``name`` stands in errors. ``repeated`` counts requests that had to be sent again.

    Raises, in every method:
        LinkError: no answer after :data:`TRIES` tries, or nothing is at the address.
    """

    def __init__(self, port: Port, name: str) -> None:
        self.port, self.name = port, name
        self.repeated = 0
        self._window = WINDOW
        self._sequence = 0
        self._received = b""

    def connect(self) -> None:
        """Makes sure that a board of ours listens, at the line's first rate. A run of another host may still go on."""
        try:
            magic = self.read(LINK + Link.MAGIC)
        except LinkError:
            # Somebody may have left it at another rate: a long break brings it back.
            self.port.send_break(0.25)
            self.port.reset_input_buffer()
            magic = self.read(LINK + Link.MAGIC)
        if magic != MAGIC:
            raise LinkError(f"{self.name}: what answers there is no skipopu board (magic {magic:#010x}, not {MAGIC:#010x})")
        # The first write may carry the sequence number of another host's last and be taken for its repetition. This one does nothing.
        for _ in range(2):
            self.write(LINK + Link.MAGIC, magic)

    def set_rate(self, baud: int) -> None:
        """Both ends change to ``baud``, as near as the board's clock allows."""
        clock = self.read(LINK + Link.CLOCK_HZ)
        divisor = round(clock / baud)
        if not 4 <= divisor < 1 << 16 or abs(clock / divisor / baud - 1) > 0.02:
            raise LinkError(f"{self.name}: a rate of {baud} baud cannot be made of {clock / 1e6:g} MHz within 2 %")
        self.write(LINK + Link.DIVISOR, divisor)
        self.port.baudrate = baud
        self._window = WINDOW if divisor >= STREAMED else 1
        self.read(LINK + Link.MAGIC)

    def read(self, address: int) -> int:
        return int.from_bytes(self.read_bytes(address, WORD_BYTES), "little")

    def write(self, address: int, value: int) -> None:
        self.write_bytes(address, (value & 0xFFFF_FFFF).to_bytes(WORD_BYTES, "little"))

    def read_bytes(self, address: int, size: int) -> bytes:
        """``size`` bytes from ``address``, both multiples of 4."""
        parts = ((address + at, min(size - at, MOST_WORDS * WORD_BYTES)) for at in range(0, size, MOST_WORDS * WORD_BYTES))
        # A read's answer is long: the next request waits for it.
        return b"".join(self._exchange([(Operation.READ, start, count // WORD_BYTES, b"")])[0] for start, count in parts)

    def write_bytes(self, address: int, data: bytes, on_bytes: Callable[[int], None] = lambda count: None) -> None:
        """``data`` to ``address``, both of whole words; ``on_bytes`` is told how many more arrived."""
        step = MOST_WORDS * WORD_BYTES
        parts = [data[at : at + step] for at in range(0, len(data), step)]
        requests = [(Operation.WRITE, address + k * step, len(part) // WORD_BYTES, part) for k, part in enumerate(parts)]
        self._exchange(requests, lambda index: on_bytes(len(parts[index])))

    def _exchange(
        self,
        requests: Iterable[tuple[Operation, int, int, bytes]],
        on_answer: Callable[[int], None] = lambda index: None,
    ) -> list[bytes]:
        """Payloads of the answers, in the requests' order."""
        queue = list(requests)
        answers: dict[int, bytes] = {}
        waiting: dict[int, _Waiting] = {}
        sent = 0
        while len(answers) < len(queue):
            while sent < len(queue) and len(waiting) < self._window:
                operation, address, words, payload = queue[sent]
                self._sequence = (self._sequence + 1) & 0xFF
                frame = request(self._sequence, operation, address, words, payload)
                what = f"{operation.name.lower()} of {words} words at {address:#010x}"
                answer_bytes = (
                    1 + ANSWER_HEADER.size + CHECKSUM_BYTES + (WORD_BYTES * words if operation == Operation.READ else 0)
                )
                waiting[self._sequence] = _Waiting(sent, frame, what, answer_bytes, time.monotonic())
                self._send(frame)
                sent += 1
            for sequence, status, payload in self._answers():
                one = waiting.get(sequence)
                if one is None:
                    continue  # an answer to what was repeated in the meantime
                if status != Status.OK:
                    raise LinkError(f"{self.name}: {one.what}: nothing is there")
                del waiting[sequence]
                answers[one.index] = payload
                on_answer(one.index)
            # Both ways once more than everything under way takes.
            under_way = sum(len(one.frame) + one.answer_bytes for one in waiting.values())
            patience = (self.port.timeout or 1.0) + 2 * BITS_PER_BYTE * under_way / self.port.baudrate
            for one in waiting.values():
                if time.monotonic() - one.sent > patience:
                    if one.tries == TRIES:
                        raise LinkError(
                            f"{self.name}: no answer to a {one.what} after {TRIES} tries at {self.port.baudrate} baud; is the board"
                            " powered and configured with skipopu's bitstream?"
                        )
                    one.tries, one.sent = one.tries + 1, time.monotonic()
                    self.repeated += 1
                    self._send(one.frame)
        return [answers[index] for index in range(len(queue))]

    def _send(self, frame: bytes) -> None:
        try:
            self.port.write(frame)
        except OSError as error:
            raise LinkError(f"{self.name}: the port failed ({error}); was it unplugged?") from None

    def _answers(self) -> Iterable[tuple[int, int, bytes]]:
        """What came by now, at least one read's worth of waiting."""
        try:
            self._received += self.port.read(max(1, self.port.in_waiting))
        except OSError as error:
            raise LinkError(f"{self.name}: the port failed ({error}); was it unplugged?") from None
        while True:
            answer, done = parse_answer(self._received)
            self._received = self._received[done:]
            if answer is None:
                return
            yield answer.sequence, answer.status, answer.payload
