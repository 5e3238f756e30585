"""Ways to a machine's registers and memory: a serial line, XRT, PYNQ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import numpy as np

from boards.host.line import Line, LinkError
from skipopu import shell
from skipopu.errors import SkipopuError
from skipopu.isa.registers import HOST, HOST_REGISTERS
from skipopu.link import LINK, MEMORY, REGISTERS, WORD_BYTES, Link

OnBytes = Callable[[int], None]
PAGE = 4096  # bytes: a burst stays inside one, so a port's memory starts at one


def nothing(count: int) -> None:
    """Does nothing with a number of bytes."""


class Transport(Protocol):
    """What a :class:`boards.host.device.Device` needs; ``name`` stands in errors. Addresses are bytes inside a port's memory."""

    name: str

    def reset(self) -> None:
        """Resets the overlay."""
        ...

    def reserve(self, ports: int, size: int) -> None:
        """Makes sure that each of ``ports`` has ``size`` bytes; raises SkipopuError with both numbers when it has not."""
        ...

    def register(self, name: str) -> int: ...

    def set_register(self, name: str, value: int) -> None: ...

    def registers(self, first: str, last: str) -> dict[str, int]:
        """All registers from ``first`` to ``last``, read in one go where that is faster."""
        ...

    def read(self, port: int, address: int, size: int) -> bytes: ...

    def write(self, port: int, address: int, data: bytes, on_bytes: OnBytes = nothing) -> None: ...


class SerialTransport:
    """A machine with one port behind :class:`boards.host.line.Line`; implements :class:`Transport`."""

    def __init__(self, line: Line) -> None:
        self.line, self.name = line, line.name
        line.connect()

    def reset(self) -> None:
        self.line.write(LINK + Link.RESET, 1)

    def reserve(self, ports: int, size: int) -> None:
        held = self.line.read(LINK + Link.MEMORY_BYTES)
        if ports != 1 or size > held:
            raise LinkError(
                f"{self.name}: the program needs {size} bytes in each of {ports} ports; the board has {held} in one"
            )

    def register(self, name: str) -> int:
        return self.line.read(REGISTERS + HOST[name].address)

    def set_register(self, name: str, value: int) -> None:
        self.line.write(REGISTERS + HOST[name].address, value)

    def registers(self, first: str, last: str) -> dict[str, int]:
        span = [r for r in HOST_REGISTERS if HOST[first].address <= r.address <= HOST[last].address]
        values = np.frombuffer(self.line.read_bytes(REGISTERS + span[0].address, WORD_BYTES * len(span)), "<u4")
        return {r.name: int(value) for r, value in zip(span, values, strict=True)}

    def read(self, port: int, address: int, size: int) -> bytes:
        return self.line.read_bytes(MEMORY + address, size)

    def write(self, port: int, address: int, data: bytes, on_bytes: OnBytes = nothing) -> None:
        self.line.write_bytes(MEMORY + address, data, on_bytes)


class MappedTransport(ABC):
    """What XRT and PYNQ have in common: registers by address, a buffer per port whose start goes to the shell."""

    name: str

    def __init__(self) -> None:
        self._buffers: list[Buffer] = []

    @abstractmethod
    def _peek(self, address: int) -> int:
        """A 32-bit register by byte address."""

    @abstractmethod
    def _poke(self, address: int, value: int) -> None:
        """Writes one."""

    @abstractmethod
    def _allocate(self, port: int, size: int) -> Buffer:
        """Memory for a port."""

    def reset(self) -> None:
        self._poke(shell.RESET, 1)

    def reserve(self, ports: int, size: int) -> None:
        self._buffers = [self._allocate(port, size) for port in range(ports)]
        for port, buffer in enumerate(self._buffers):
            if buffer.address % PAGE:
                raise SkipopuError(f"{self.name}: port {port}'s buffer starts at {buffer.address:#x}, no multiple of {PAGE}")
            for half in range(2):
                self._poke(shell.base_register(port) + 4 * half, buffer.address >> 32 * half & 0xFFFF_FFFF)

    def register(self, name: str) -> int:
        return self._peek(HOST[name].address)

    def set_register(self, name: str, value: int) -> None:
        self._poke(HOST[name].address, value)

    def registers(self, first: str, last: str) -> dict[str, int]:
        span = range(HOST[first].address, HOST[last].address + WORD_BYTES)
        return {r.name: self._peek(r.address) for r in HOST_REGISTERS if r.address in span}

    def read(self, port: int, address: int, size: int) -> bytes:
        return self._buffers[port].read(address, size)

    def write(self, port: int, address: int, data: bytes, on_bytes: OnBytes = nothing) -> None:
        self._buffers[port].write(address, data)
        on_bytes(len(data))


class Buffer(Protocol):
    """Memory that the machine and the host both reach; ``address`` as the machine sees it."""

    address: int

    def read(self, offset: int, size: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...
