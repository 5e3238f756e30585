"""Alveo boards through XRT's Python bindings (pyxrt comes with XRT, not from a package index)."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np

from boards.host.transport import Buffer, MappedTransport
from skipopu.errors import SkipopuError
from skipopu.shell import MODULE


class XrtBuffer:
    """A buffer object in one pseudo-channel."""

    def __init__(self, pyxrt: ModuleType, device: Any, size: int, group: int) -> None:
        self._pyxrt = pyxrt
        self._object = pyxrt.bo(device, size, pyxrt.bo.normal, group)
        self.address = self._object.address()
        self._bytes = np.frombuffer(self._object.map(), np.uint8)

    def write(self, offset: int, data: bytes) -> None:
        self._bytes[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
        self._object.sync(self._pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE, len(data), offset)

    def read(self, offset: int, size: int) -> bytes:
        self._object.sync(self._pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE, size, offset)
        return self._bytes[offset : offset + size].tobytes()


class XrtTransport(MappedTransport):
    """The kernel of ``xclbin`` on device ``index``; its registers are the host's own to write (user-managed control)."""

    def __init__(self, xclbin: str, index: int = 0) -> None:
        try:
            pyxrt = importlib.import_module("pyxrt")
        except ImportError:
            raise SkipopuError("pyxrt is not installed; it comes with XRT: source its setup.sh and use XRT's Python") from None
        super().__init__()
        self.name = f"Alveo device {index}"
        self._pyxrt, self._device = pyxrt, pyxrt.device(index)
        binary = pyxrt.xclbin(xclbin)
        uuid = self._device.load_xclbin(binary)
        self._ip = pyxrt.ip(self._device, uuid, MODULE)

    def _peek(self, address: int) -> int:
        return self._ip.read_register(address)

    def _poke(self, address: int, value: int) -> None:
        self._ip.write_register(address, value)

    def _allocate(self, port: int, size: int) -> Buffer:
        # The connectivity file gives port k pseudo-channel k, which is memory group k.
        return XrtBuffer(self._pyxrt, self._device, size, port)
