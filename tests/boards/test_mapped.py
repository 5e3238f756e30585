"""XRT and PYNQ transports against stand-ins for those packages, with the functional engine as the machine behind them.

The packages themselves need the boards; what is checked is what the driver does with them: which buffers, addresses, registers, in
which order memory is synchronised.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from boards.host.device import Device
from boards.host.transport import MappedTransport
from boards.host.xrt import XrtTransport
from boards.host.zynq import PynqTransport
from compiler.pipeline import compile_checkpoint
from sim.engine import Watch
from sim.functional import engine as functional
from skipopu.cli import main
from skipopu.errors import SkipopuError
from skipopu.isa.registers import HOST, STATUS_ERROR, STATUS_OWED, STATUS_RUNNING
from skipopu.machine.config import Machine
from skipopu.program.run import Run
from tests.boards.behind import Behind, alveo, fake_pynq, fake_pyxrt
from tests.support import Followed, random_checkpoint, small_config


@pytest.fixture
def behind() -> Behind:
    config = small_config(hidden_size=32, intermediate_size=32, num_heads=2, num_kv_heads=1, head_dim=16, vocab_size=30)
    return Behind(compile_checkpoint(random_checkpoint(config, 2), Machine.load("tiny"), context=12))


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
    device = Device(alveo(behind, monkeypatch))
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
    device = Device(alveo(behind, monkeypatch))
    device.require(behind.program)
    with pytest.raises(SkipopuError, match=r"memory of port 0 holds 0x00 .*not loaded; leave --no-load out"):
        device.verify(behind.program)
    device.load(behind.program)
    device.verify(behind.program)
    config = behind.program.model
    other = compile_checkpoint(random_checkpoint(config, 3), behind.program.machine, context=12)
    with pytest.raises(SkipopuError, match="not loaded"):
        device.verify(other)


def test_a_run_under_way_is_aborted_before_a_reset(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reset in the middle of it would leave memory in the middle of a burst, and answers to it for the next run."""
    transport, status = alveo(behind, monkeypatch), HOST["STATUS"].address
    read, polls, left = behind.read, 0, 3

    def ending(address: int) -> int:
        """Memory owes answers for a while."""
        nonlocal left, polls
        if address == status and behind.aborts:
            assert behind.resets == 0
            left -= 1
            behind.values[status] = STATUS_OWED if left else STATUS_ERROR
        polls += address == status
        return read(address)

    monkeypatch.setattr(transport, "_peek", ending)
    behind.values[status] = STATUS_RUNNING
    Device(transport)
    assert (left, polls, behind.aborts, behind.resets) == (0, 4, 1, 1)
    monkeypatch.setattr(transport, "_peek", read)
    behind.values[status] = STATUS_OWED
    with pytest.raises(
        SkipopuError, match=r"Alveo device 1: memory still owes answers to an earlier run after 0.1 s; configure"
    ):
        Device(transport, 0.1)
    assert (behind.aborts, behind.resets) == (1, 1)


def test_abort_from_the_command_line(
    behind: Behind, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever began the run; no model is needed, and none is loaded."""
    monkeypatch.setitem(sys.modules, "pyxrt", fake_pyxrt(behind))
    behind.values[HOST["STATUS"].address] = STATUS_RUNNING
    for said in ("the run was ended", "no run was under way"):
        assert main(["host", "--xclbin", "x.xclbin", "--device", "1", "--abort"]) == 0
        assert capsys.readouterr().out == f"Alveo device 1: {said}; the machine is reset\n"
    assert (behind.aborts, behind.resets) == (1, 2)
    for options, error in (
        (["pybyte-300k"], "--abort takes no model"),
        (["--max-new", "3"], "--max-new has no effect: --abort only ends a run"),
    ):
        assert main(["host", "--xclbin", "x.xclbin", "--abort", *options]) == 2
        assert error in capsys.readouterr().err
    assert main(["host", "--simulate", "--abort"]) == 2
    assert "--simulate has no effect" in capsys.readouterr().err
    assert main(["host", "--simulate"]) == 2
    assert "a model is needed" in capsys.readouterr().err
    assert behind.resets == 2


class Interrupting(Watch):
    """As a user with Ctrl-C does."""

    def token(self, token: int | None) -> None:
        raise KeyboardInterrupt


def test_a_run_that_nobody_waits_for_is_aborted(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an interrupt in the middle, or where it takes too long; then another one is right."""
    device, run = Device(alveo(behind, monkeypatch)), Run((3, 1, 4), 5)
    device.load(behind.program)

    def token() -> None:
        behind.polls, behind.values[HOST["GENERATED"].address] = 2, 1

    def nothing() -> None:
        behind.polls = 2

    for aborts, execute in enumerate((token, nothing), 1):
        with monkeypatch.context() as patch:
            patch.setattr(behind, "execute", execute)
            with pytest.raises((KeyboardInterrupt, SkipopuError)) as caught:
                device.run(behind.program, run, Interrupting(), 0.05)
            assert isinstance(caught.value, KeyboardInterrupt) == (execute is token)
        assert (behind.aborts, len(behind.runs)) == (aborts, aborts - 1)
        assert device.run(behind.program, run).tokens == functional.run(behind.program, run).tokens


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyxrt", None)
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(SkipopuError, match="pyxrt is not installed"):
        XrtTransport("x.xclbin")
    with pytest.raises(SkipopuError, match="pynq is not installed"):
        PynqTransport("x.bit")
