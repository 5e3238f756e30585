"""The ULX3S: its top level through the serial line, bit by bit; its bitstream; its netlist."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from boards.host.device import RUN_TIME, Device
from boards.host.instance import Instance
from boards.host.line import Line
from boards.host.transport import SerialTransport
from boards.open import flow
from boards.open.flow import build, project, read_report, synthesise
from boards.open.ulx3s import asked_mhz
from compiler.frontend.checkpoint import load
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.session import Session
from sim.ulx3s.build import simulate_netlist, simulate_project
from sim.ulx3s.port import SimulatedPort
from skipopu.errors import MachineHalt, ProgramError, SkipopuError
from skipopu.isa.registers import CONTROL_START, STATUS_RUNNING, Error
from skipopu.link import BAUD, LINK, Link
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from tests.support import Followed, random_checkpoint, small_config, smallest_config

MACHINE = Machine.load("ulx3s")
CLOCK = MACHINE.clock_mhz * 1e6
FAST = round(CLOCK / 5)  # baud of a simulated line
MODEL = Path(__file__).parents[2] / "models" / "pybyte-300k"


def tiny() -> Program:
    """A random model of 3 kB, for slow simulations."""
    return compile_checkpoint(random_checkpoint(smallest_config(), 3), MACHINE)


@pytest.fixture(scope="module")
def board() -> Iterator[SerialTransport]:
    port = SimulatedPort(simulate_project(project(MACHINE)), CLOCK, BAUD)
    transport = SerialTransport(Line(port, "simulation"))
    transport.line.set_rate(FAST)
    yield transport
    port.close()


@pytest.mark.rtl
def test_shipped_model_through_the_serial_line(board: SerialTransport) -> None:
    """Load, prompt, tokens as they come, and all of memory behind it."""
    program = compile_checkpoint(load(MODEL), MACHINE)
    device, told, followed = Device(board), [0], Followed()
    device.load(program, lambda count: told.append(count))
    run = Run(tuple(b"def read("), 16, check=True)
    result = device.run(program, run, followed)
    expected = functional.run(program, run)
    assert result.tokens == followed.tokens == expected.tokens
    assert result.kv_entries == expected.kv_entries
    assert sum(told) == sum(r.size for name, r in program.regions.items() if name not in RUN_TIME)
    assert board.line.repeated == 0
    # The ring's cycles are the board's own; everything else is the functional engine's.
    ring = program.regions["ring"]
    for region in (r for r in program.regions.values() if r != ring):
        data = board.read(0, region.address, region.size)
        assert data == expected.memory[0][region.address : region.address + region.size].tobytes()
    # A host that comes while a run goes on aborts it.
    board.reset()
    for name, value in run.registers(program).items():
        board.set_register(name, value)
    board.set_register("CONTROL", CONTROL_START)
    assert board.register("STATUS") == STATUS_RUNNING
    device = Device(board)
    assert device.aborted
    assert board.register("STATUS") == 0
    # A second prompt on what is loaded.
    again = Run(tuple(b"class "), 4)
    assert device.run(program, again).tokens == functional.run(program, again).tokens


@pytest.mark.rtl
def test_a_session_through_the_serial_line(board: SerialTransport) -> None:
    """Runs behind what others left, back by one, tokens that are looked at, logits: what the functional engine's session has."""
    program = compile_checkpoint(random_checkpoint(smallest_config(), 3), MACHINE, logits=True)
    device = Device(board)
    device.load(program)
    with Session(program, Instance(device, program)) as session, Session(program) as expected:
        for known, new, begins in (
            ((3, 5, 7), 1, 0),
            ((3, 5, 7, 1), 1, 3),
            ((3, 5, 7, 1, 2, 6), 2, 4),
            ((3, 5, 7, 1, 2), 0, 4),
        ):
            run = session.follow(Run(known[:3], new, after=known[3:], predict_from=len(known) - 1))
            assert run.first == begins
            result, same = session.run(run), expected.run(run)
            assert (result.tokens, result.predicted, result.kv_entries) == (same.tokens, same.predicted, same.kv_entries)
            assert (session.logits(len(known) - 1) == expected.logits(len(known) - 1)).all()


@pytest.mark.rtl
def test_faults_and_reset(board: SerialTransport) -> None:
    device, program = Device(board), tiny()
    device.load(program)
    # An instruction that does not exist: halted with a code, and fine after the next reset.
    address = program.regions["program"].address
    board.write(0, address, b"\xff" * 16)
    with pytest.raises(MachineHalt) as halted:
        device.run(program, Run((3, 5), 1))
    assert halted.value.code == Error.ILLEGAL_INSTRUCTION
    device.load(program)
    run = Run((3, 5, 7), 2)
    assert device.run(program, run).tokens == functional.run(program, run).tokens
    # A program that reaches behind the memory.
    with pytest.raises(SkipopuError, match="nothing is there"):
        board.read(0, MACHINE.memory_bytes, 4)
    other = compile_checkpoint(random_checkpoint(small_config(), 1), Machine.load("mono"), context=24)
    with pytest.raises(ProgramError, match=r"the board's MACHINE register is .* compiled for machine mono"):
        device.load(other)
    # The button and a break of the line bring everything back to its start.
    assert isinstance(board.line.port, SimulatedPort)
    # What the button cuts off is forgotten after a million cycles, seconds of simulation: each try waits longer than that.
    board.line.port.timeout = 15.0
    board.line.port.press_reset(40)
    board.line.port.baudrate = BAUD
    board.line.connect()
    assert board.line.read(LINK + Link.DIVISOR) == CLOCK / BAUD
    board.line.set_rate(FAST)
    board.line.port.baudrate = 115_200  # of which the board knows nothing
    board.line.port.send_break(0.003)
    board.line.port.baudrate = BAUD
    board.line.connect()
    board.line.set_rate(FAST)
    board.line.port.timeout = 120.0
    assert device.run(program, run).tokens == functional.run(program, run).tokens


@pytest.mark.slow
def test_project_is_the_same_every_time_and_names_no_place() -> None:
    first, second = project(MACHINE), project(MACHINE)
    assert first == second
    assert not any(str(Path(__file__).parents[2]) in text for text in first.values())
    pins = first["top.lpf"]
    for name, site in (("clk25_0__io", "G2"), ("uart_0__rx__io", "M1"), ("uart_0__tx__io", "L4"), ("wifi_gpio0_0__io", "L2")):
        assert f'LOCATE COMP "{name}" SITE "{site}"' in pins
    assert 'FREQUENCY PORT "clk25_0__io" 25000000.0 HZ' in pins


def test_a_clock_that_the_pll_does_not_make_is_refused() -> None:
    with pytest.raises(SkipopuError, match=r"machine ulx3s: clock_mhz: the PLL makes no 401 MHz of 25; accepted: 400"):
        project(dataclasses.replace(MACHINE, clock_mhz=401))


def routed(directory: Path, achieved: float, pll: float = 60, constraint: float = 45) -> Path:
    """What a router leaves that was asked for less than the machine's clock."""
    directory.mkdir()
    clock = {"achieved": achieved, "constraint": constraint}
    (directory / "report.json").write_text(json.dumps({"fmax": {"clk": clock}, "utilization": {}}))
    (directory / "top.tim").write_text(
        f"Warning:     Overriding derived constraint of 45.0 MHz on net clk with user-specified constraint of {pll:.1f} MHz.\n"
    )
    for name in ("top.bit", "top.svf"):
        (directory / name).touch()
    return directory


def test_what_was_routed_is_of_the_machine_s_clock(tmp_path: Path) -> None:
    assert read_report(routed(tmp_path / "right", 61.5), 60).fmax_mhz == 61.5
    with pytest.raises(SkipopuError, match=r"top.tim: the PLL makes 50 MHz; 60 are asked for"):
        read_report(routed(tmp_path / "pll", 61.5, pll=50), 60)
    with pytest.raises(SkipopuError, match=r"report.json: clock clk of 60 MHz; 45 are asked for"):
        read_report(routed(tmp_path / "ignored", 61.5, constraint=60), 60)
    assert asked_mhz(25) == 25


def test_a_clock_that_is_not_met_leaves_no_bitstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, left = routed(tmp_path / "made", 59.9), tmp_path / "left"
    monkeypatch.setattr(flow, "project", lambda machine, seed: {})
    monkeypatch.setattr(flow, "synthesise", lambda files, say: made)
    monkeypatch.setattr(flow, "_cached", lambda kind, files, make: made)
    with pytest.raises(SkipopuError, match=r"timing is not met: 59.90 MHz of 60"):
        build(dataclasses.replace(MACHINE, clock_mhz=60), left)
    assert sorted(path.name for path in left.iterdir()) == ["report.json", "top.tim"]


@pytest.mark.bitstream
@pytest.mark.timeout(3000)
def test_netlist_runs_bit_for_bit() -> None:
    """What synthesis left, cell by cell, through the serial line: two tokens and all of memory."""
    program, run = tiny(), Run((3, 5, 7), 2)
    executable = simulate_netlist(synthesise(project(MACHINE)) / "top.json")
    port = SimulatedPort(executable, CLOCK, BAUD, timeout=300)
    transport = SerialTransport(Line(port, "netlist"))
    transport.line.set_rate(FAST)
    device = Device(transport)
    device.load(program)
    expected = functional.run(program, run)
    assert device.run(program, run).tokens == expected.tokens
    assert transport.read(0, 0, program.port_bytes) == expected.memory[0].tobytes()
    port.close()


@pytest.mark.bitstream
@pytest.mark.timeout(5000)
def test_bitstream_meets_its_clock(tmp_path: Path) -> None:
    bitstream = build(MACHINE, tmp_path)
    assert bitstream.fmax_mhz >= bitstream.clock_mhz == 60
    assert bitstream.path.stat().st_size > 500_000
    assert all(used <= available for used, available in bitstream.utilisation.values())
    assert b"LFE5U-85F" in bitstream.path.read_bytes()[:200], "the device that the bitstream is for stands in its head"
