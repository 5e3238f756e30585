"""Stand-ins for XRT's and PYNQ's packages, with the functional engine as the machine behind them."""

from __future__ import annotations

import dataclasses
import sys
import types

import numpy as np
import pytest

from boards.host.xrt import XrtTransport
from sim.functional import engine as functional
from skipopu import shell
from skipopu.isa.registers import (
    CONTROL_ABORT,
    CONTROL_START,
    HOST,
    MAGIC,
    NO_POSITION,
    STATUS_DONE,
    STATUS_ERROR,
    STATUS_RUNNING,
    Error,
    identity,
)
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.shell import MODULE

CYCLES = 1000  # of a token


class Behind:
    """Registers, and memory at physical addresses that the host has to synchronise; a start runs the functional engine, on what the runs
    since the last reset left.

    It ends as the host asks for the status a second time. ``runs`` are those that ended.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.values = {
            HOST["MAGIC"].address: MAGIC,
            HOST["MACHINE"].address: identity(program.machine.fingerprint),
            HOST["NUMERICS"].address: identity(program.machine.numerics_fingerprint(program.numerics)),
        }
        self.memory: dict[int, np.ndarray] = {}  # what the machine sees, by first address
        self.machine: functional.Instance | None = None
        self.resets = self.polls = self.aborts = 0
        self.runs: list[Run] = []

    def read(self, address: int) -> int:
        if address == HOST["STATUS"].address and self.polls:
            self.polls -= 1
            if not self.polls:
                self.execute()
        return self.values.get(address, 0)

    def write(self, address: int, value: int) -> None:
        self.values[address] = value
        if address == shell.RESET:
            self.resets, self.machine, self.values[HOST["STATUS"].address] = self.resets + 1, None, 0
        elif address == HOST["CONTROL"].address and value == CONTROL_ABORT:
            if self.values.get(HOST["STATUS"].address, 0) & STATUS_RUNNING:
                self.values |= {HOST["STATUS"].address: STATUS_ERROR, HOST["ERROR"].address: Error.ABORTED}
                self.polls, self.machine, self.aborts = 0, None, self.aborts + 1
        elif address == HOST["CONTROL"].address:
            assert value == CONTROL_START
            assert not self.values.get(HOST["STATUS"].address, 0) & STATUS_RUNNING
            self.values |= {HOST["STATUS"].address: STATUS_RUNNING, HOST["GENERATED"].address: 0}
            self.polls = 2

    def asked(self, name: str) -> int:
        """What the host wrote to a register."""
        return self.values[HOST[name].address]

    def ports(self) -> list[np.ndarray]:
        """Each one's memory."""

        def base(port: int) -> int:
            low, high = (self.values[shell.base_register(port) + 4 * half] for half in range(2))
            return low | high << 32

        found = []
        for port in range(self.program.machine.ports):
            first, memory = next((a, m) for a, m in self.memory.items() if a <= base(port) < a + len(m))
            found.append(memory[base(port) - first :][: self.program.port_bytes])
        return found

    def execute(self) -> None:
        ports, prompt = self.ports(), self.asked("PROMPT_LENGTH")
        at = self.program.regions["tokens"].address
        known = tuple(ports[0][at : at + 4 * self.asked("KNOWN_LENGTH")].view("<u4").tolist())
        run = Run(
            known[:prompt],
            self.asked("MAX_NEW"),
            float(np.uint32(self.asked("DIAL")).view(np.float32)),
            after=known[prompt:],
            first=self.asked("FIRST"),
            predict_from=None if self.asked("PREDICT_FROM") == NO_POSITION else self.asked("PREDICT_FROM"),
        )
        code = self.program.regions["program"].address
        words = ports[0][code : code + 16 * self.asked("PROGRAM_LENGTH")].tobytes()
        instructions = [int.from_bytes(words[i : i + 16], "little") for i in range(0, len(words), 16)]
        program = dataclasses.replace(self.program, memory=ports, instructions=instructions)
        if self.machine is None:
            assert run.first == 0, "nothing is kept"
            self.machine = functional.Instance(program)
        else:
            assert self.machine.state is not None
            for own, seen in zip(self.machine.state.memory, ports, strict=True):
                own[:] = seen
            self.machine.program = program
        result = self.machine.run(run)
        self.runs.append(run)
        for seen, after in zip(ports, result.memory, strict=True):
            seen[:] = after
        here = result.routing[..., run.first :]
        self.values |= {
            HOST["GENERATED"].address: len(result.tokens),
            HOST["POSITION"].address: result.routing.shape[2],
            HOST["EXECUTED_ATTENTION"].address: int(here[:, 0].sum()),
            HOST["EXECUTED_FFN"].address: int(here[:, 1].sum()),
            HOST["KV_ENTRIES"].address: result.kv_entries,
            HOST["CYCLES"].address: CYCLES * here.shape[2],
            HOST["STATUS"].address: STATUS_DONE,
        }


def fake_pyxrt(behind: Behind) -> types.ModuleType:
    module = types.ModuleType("pyxrt")

    class Buffer:
        normal = "normal"

        def __init__(self, device: object, size: int, flags: str, group: int) -> None:
            assert (device, flags) == ("device 1", "normal")
            self.host = bytearray(size)
            self.first = 0x40_0000_0000 + (group << 28)
            behind.memory[self.first] = np.zeros(size, np.uint8)

        def address(self) -> int:
            return self.first

        def map(self) -> memoryview:
            return memoryview(self.host)

        def sync(self, direction: str, size: int, offset: int) -> None:
            device = behind.memory[self.first][offset : offset + size]
            host = np.frombuffer(self.host, np.uint8)[offset : offset + size]
            if direction == "to":
                device[:] = host
            else:
                host[:] = device

    class Ip:
        def __init__(self, device: object, uuid: str, name: str) -> None:
            assert (uuid, name) == ("uuid of x.xclbin", MODULE)

        read_register, write_register = staticmethod(behind.read), staticmethod(behind.write)

    class Device:
        def __init__(self, index: int) -> None:
            self.name = f"device {index}"

        def __eq__(self, other: object) -> bool:
            return other == self.name

        __hash__ = None  # type: ignore[assignment]

        def load_xclbin(self, binary: str) -> str:
            return f"uuid of {binary}"

    module.bo, module.ip, module.device, module.xclbin = Buffer, Ip, Device, str  # type: ignore[attr-defined]
    module.xclBOSyncDirection = types.SimpleNamespace(  # type: ignore[attr-defined]
        XCL_BO_SYNC_BO_TO_DEVICE="to", XCL_BO_SYNC_BO_FROM_DEVICE="from"
    )
    return module


def fake_pynq(behind: Behind) -> types.ModuleType:
    module = types.ModuleType("pynq")

    class Memory(np.ndarray):
        physical_address: int

        def flush(self) -> None:
            behind.memory[self.physical_address][:] = self

        def invalidate(self) -> None:
            self[:] = behind.memory[self.physical_address]

    def allocate(shape: tuple[int], dtype: type) -> Memory:
        memory = np.zeros(shape, dtype).view(Memory)
        memory.physical_address = 0x6000_0840 + 0x100_0000 * len(behind.memory)  # inside a page
        behind.memory[memory.physical_address] = np.zeros(shape, dtype)
        return memory

    def overlay(bitstream: str) -> object:
        assert bitstream == "x.bit"
        return types.SimpleNamespace(skipopu=types.SimpleNamespace(mmio=behind))

    module.Overlay, module.allocate = overlay, allocate  # type: ignore[attr-defined]
    return module


def alveo(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> XrtTransport:
    """A board with that machine."""
    monkeypatch.setitem(sys.modules, "pyxrt", fake_pyxrt(behind))
    return XrtTransport("x.xclbin", 1)
