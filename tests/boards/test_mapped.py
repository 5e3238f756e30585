"""XRT and PYNQ transports against stand-ins for those packages, with the functional engine as the machine behind them.

The packages themselves need the boards; what is checked is what the driver does with them: which buffers, addresses, registers, in
which order memory is synchronised.
"""

from __future__ import annotations

import dataclasses
import sys
import types

import numpy as np
import pytest

from boards.host.device import Device
from boards.host.transport import MappedTransport
from boards.host.xrt import XrtTransport
from boards.host.zynq import PynqTransport
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from skipopu import shell
from skipopu.errors import SkipopuError
from skipopu.isa.registers import HOST, MAGIC, STATUS_DONE, STATUS_RUNNING, identity
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.shell import MODULE
from tests.support import Followed, random_checkpoint, small_config


class Behind:
    """Registers, and memory at physical addresses that the host has to synchronise; a start runs the functional engine."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.values = {
            HOST["MAGIC"].address: MAGIC,
            HOST["MACHINE"].address: identity(program.machine.fingerprint),
            HOST["NUMERICS"].address: identity(program.machine.numerics_fingerprint(program.numerics)),
        }
        self.memory: dict[int, np.ndarray] = {}  # what the machine sees, by first address
        self.resets = 0

    def read(self, address: int) -> int:
        return self.values.get(address, 0)

    def write(self, address: int, value: int) -> None:
        self.values[address] = value
        self.resets += address == shell.RESET
        if address == HOST["CONTROL"].address:
            self.start()

    def start(self) -> None:
        def base(port: int) -> int:
            low, high = (self.values[shell.base_register(port) + 4 * half] for half in range(2))
            return low | high << 32

        count = self.values[HOST["PROMPT_LENGTH"].address]
        ports = []
        for port in range(self.program.machine.ports):
            first, memory = next((a, m) for a, m in self.memory.items() if a <= base(port) < a + len(m))
            ports.append(memory[base(port) - first :][: self.program.port_bytes])
        at = self.program.regions["tokens"].address
        run = Run(tuple(ports[0][at : at + 4 * count].view("<u4").tolist()), self.values[HOST["MAX_NEW"].address])
        code = self.program.regions["program"].address
        words = ports[0][code : code + 16 * self.values[HOST["PROGRAM_LENGTH"].address]].tobytes()
        instructions = [int.from_bytes(words[i : i + 16], "little") for i in range(0, len(words), 16)]
        result = functional.run(dataclasses.replace(self.program, memory=ports, instructions=instructions), run)
        for seen, after in zip(ports, result.memory, strict=True):
            seen[:] = after
        self.values[HOST["GENERATED"].address] = len(result.tokens)
        self.values[HOST["POSITION"].address] = result.routing.shape[2]
        for module, name in enumerate(("EXECUTED_ATTENTION", "EXECUTED_FFN")):
            self.values[HOST[name].address] = int(result.routing[:, module].sum())
        self.values[HOST["STATUS"].address] = STATUS_DONE


@pytest.fixture
def behind() -> Behind:
    config = small_config(hidden_size=32, intermediate_size=32, num_heads=2, num_kv_heads=1, head_dim=16, vocab_size=30)
    return Behind(compile_checkpoint(random_checkpoint(config, 2), Machine.load("tiny"), context=12))


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


@pytest.mark.parametrize("kind", ["xrt", "pynq"])
def test_load_and_run(kind: str, behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    name, fake = ("pyxrt", fake_pyxrt) if kind == "xrt" else ("pynq", fake_pynq)
    monkeypatch.setitem(sys.modules, name, fake(behind))
    transport: MappedTransport = XrtTransport("x.xclbin", 1) if kind == "xrt" else PynqTransport("x.bit")
    device, followed = Device(transport), Followed()
    device.load(behind.program)
    run = Run((3, 1, 4), 5)
    result = device.run(behind.program, run, followed)
    assert result.tokens == followed.tokens == functional.run(behind.program, run).tokens
    assert behind.resets == 2
    again = Run((7, 7), 3)
    assert device.run(behind.program, again).tokens == functional.run(behind.program, again).tokens


def test_no_run_leaves_its_routing_to_the_next(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine executes what its memory says: modes and traces are what the run before wrote."""
    monkeypatch.setitem(sys.modules, "pyxrt", fake_pyxrt(behind))
    device = Device(XrtTransport("x.xclbin", 1))
    device.load(behind.program)
    layers, prompt = behind.program.model.num_layers, (3, 1, 4)
    none, alternating = np.zeros((layers, 2, 12), bool), np.arange(layers * 24).reshape(layers, 2, 12) % 2 == 0
    seen = set()
    for routing in ("program", none, "program", "always", "program", alternating, none, "always", alternating, "program"):
        run = Run(prompt, 5, routing=routing)
        expected, got = functional.run(behind.program, run), device.run(behind.program, run)
        executed = tuple(int(part.sum()) for part in expected.routing.swapaxes(0, 1))
        assert (got.counters["EXECUTED_ATTENTION"], got.counters["EXECUTED_FFN"]) == executed
        assert got.tokens == expected.tokens
        seen.add(executed)
    assert len(seen) == 4, "the routings must differ"


def test_what_is_loaded_is_read_back(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyxrt", fake_pyxrt(behind))
    device = Device(XrtTransport("x.xclbin", 1))
    device.require(behind.program)
    with pytest.raises(SkipopuError, match=r"memory of port 0 holds 0x00 .*not loaded; leave --no-load out"):
        device.verify(behind.program)
    device.load(behind.program)
    device.verify(behind.program)
    config = behind.program.model
    other = compile_checkpoint(random_checkpoint(config, 3), behind.program.machine, context=12)
    with pytest.raises(SkipopuError, match="not loaded"):
        device.verify(other)


def test_a_run_under_way_is_not_cut_off(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reset would leave memory in the middle of a burst."""
    monkeypatch.setitem(sys.modules, "pyxrt", fake_pyxrt(behind))
    transport, status = XrtTransport("x.xclbin", 1), HOST["STATUS"].address
    left = 3
    read = behind.read

    def ending(address: int) -> int:
        nonlocal left
        if address == status:
            assert behind.resets == 0
            left -= 1
            behind.values[status] = STATUS_RUNNING if left else STATUS_DONE
        return read(address)

    monkeypatch.setattr(transport, "_peek", ending)
    Device(transport)
    assert (left, behind.resets) == (0, 1)
    behind.values[status] = STATUS_RUNNING
    monkeypatch.setattr(transport, "_peek", read)
    with pytest.raises(SkipopuError, match=r"Alveo device 1: an earlier run did not end within 0.1 s"):
        Device(transport, 0.1)
    assert behind.resets == 1


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyxrt", None)
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(SkipopuError, match="pyxrt is not installed"):
        XrtTransport("x.xclbin")
    with pytest.raises(SkipopuError, match="pynq is not installed"):
        PynqTransport("x.bit")
