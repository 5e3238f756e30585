"""A simulated board behind the interface of a serial port."""

from __future__ import annotations

import array
import fcntl
import os
import select
import struct
import subprocess
import termios
from pathlib import Path

from skipopu.errors import SkipopuError


class SimulatedPort:
    """What :class:`serial.Serial` is to a board, for the simulation ``executable``: bytes out and in, a rate, a break.

    ``clock_hz`` turns rates into cycles per bit. ``timeout`` (seconds of real time) is the longest wait of :meth:`read`; a simulated
    machine is slow, so it is much longer than a board's.
    """

    def __init__(self, executable: Path, clock_hz: float, baudrate: int, timeout: float = 120.0) -> None:
        self.clock_hz = clock_hz
        self.timeout: float | None = timeout
        self._baudrate = baudrate
        self.cycles = 0
        divisor = str(round(clock_hz / baudrate))
        self._process = subprocess.Popen(
            [str(executable), divisor], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )

    def _message(self, kind: bytes, value: int, data: bytes = b"") -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(kind + struct.pack("<I", value) + data)
        except BrokenPipeError:
            raise SkipopuError(f"the simulation ended with exit code {self._process.wait()}") from None

    @property
    def baudrate(self) -> int:
        return self._baudrate

    @baudrate.setter
    def baudrate(self, value: int) -> None:
        self._baudrate = value
        self._message(b"R", max(4, round(self.clock_hz / value)))

    @property
    def in_waiting(self) -> int:
        """Bytes that can be read at once."""
        assert self._process.stdout is not None
        count = array.array("i", [0])
        fcntl.ioctl(self._process.stdout, termios.FIONREAD, count)
        return count[0]

    def write(self, data: bytes) -> int:
        self._message(b"D", len(data), data)
        return len(data)

    def read(self, size: int = 1) -> bytes:
        """Up to ``size`` bytes: what came within ``timeout``, as soon as anything did."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], self.timeout)
        if not ready:
            return b""
        data = os.read(self._process.stdout.fileno(), size)
        if not data:
            raise SkipopuError(f"the simulation ended with exit code {self._process.wait()}")
        return data

    def send_break(self, duration: float = 0.25) -> None:
        self._message(b"B", round(duration * self.clock_hz))

    def press_reset(self, cycles: int) -> None:
        """Holds the board's reset button."""
        self._message(b"P", cycles)

    def reset_input_buffer(self) -> None:
        assert self._process.stdout is not None
        while select.select([self._process.stdout], [], [], 0)[0] and os.read(self._process.stdout.fileno(), 65536):
            pass

    def close(self) -> None:
        """Ends the simulation; ``cycles`` is how many it took."""
        if self._process.poll() is None:
            _, errors = self._process.communicate()
            words = errors.decode().split()
            self.cycles = int(words[-2]) if len(words) >= 2 and words[-1] == "cycles" else 0
