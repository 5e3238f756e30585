"""KV260 and ZCU104 through PYNQ, on the board itself."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np

from boards.host.transport import PAGE, Buffer, MappedTransport
from skipopu.errors import SkipopuError

INSTANCE = "skipopu"  # of the machine in the block design


class PynqBuffer:
    """Contiguous memory, one page longer than asked for so that it can start at one."""

    def __init__(self, pynq: ModuleType, size: int) -> None:
        self._memory = pynq.allocate(shape=(size + PAGE,), dtype=np.uint8)
        physical = self._memory.physical_address
        self.address = -(-physical // PAGE) * PAGE
        self._start = self.address - physical

    def write(self, offset: int, data: bytes) -> None:
        start = self._start + offset
        self._memory[start : start + len(data)] = np.frombuffer(data, np.uint8)
        self._memory.flush()

    def read(self, offset: int, size: int) -> bytes:
        self._memory.invalidate()
        start = self._start + offset
        return bytes(self._memory[start : start + size])


class PynqTransport(MappedTransport):
    """The overlay in ``bitstream`` (its .hwh beside it)."""

    def __init__(self, bitstream: str) -> None:
        try:
            self._pynq = importlib.import_module("pynq")
        except ImportError:
            raise SkipopuError("pynq is not installed; this runs on the board, with PYNQ 3.0 or later") from None
        super().__init__()
        self.name = bitstream
        self._registers = getattr(self._pynq.Overlay(bitstream), INSTANCE).mmio

    def _peek(self, address: int) -> int:
        return self._registers.read(address)

    def _poke(self, address: int, value: int) -> None:
        self._registers.write(address, value)

    def _allocate(self, port: int, size: int) -> Buffer:
        try:
            return PynqBuffer(self._pynq, size)
        except RuntimeError as error:
            raise SkipopuError(
                f"{self.name}: {size} bytes of contiguous memory for port {port} were refused ({error}); start Linux with a larger cma="
            ) from None
