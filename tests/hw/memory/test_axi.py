"""The overlay's AXI4 and AXI4-Lite ports against cocotbext-axi, with random stalls on every channel."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from compiler.pipeline import compile_checkpoint
from hw.shell.shell import shell_verilog
from sim.check import differing_bits
from sim.functional import engine as functional
from sim.rtl.build import build, simulation_environment
from skipopu import shell
from skipopu.isa.registers import STATUS_DONE
from skipopu.machine.config import Machine
from skipopu.program.run import Run
from tests.support import random_checkpoint, small_config

OVERLAY = {"clocks": [["clk", "rst"]], "active_low": False, "control": "host", "port": "port{}"}
SHELL = {"clocks": [["ap_clk", "ap_rst_n"]], "active_low": True, "control": "s_axi_control", "port": "m_axi_{:02}"}
GEARED = SHELL | {"clocks": [["ap_clk", "ap_rst_n"], ["ap_clk_2", "ap_rst_n_2"]]}


def run_on_buses(
    directory: Path,
    share: float,
    wiring: dict,
    bases: list[int],
    top: str,
    verilog: str | None,
    bench: str = "axi_bench",
    **more: object,
) -> None:
    """A program with bus models on every port of ``top``, as ``bench`` runs it; memory is the functional engine's afterwards."""
    machine = Machine.load("tiny")
    config = small_config(hidden_size=40, intermediate_size=50, num_heads=2, num_kv_heads=1, vocab_size=20)
    program = compile_checkpoint(random_checkpoint(config, 4), machine, "reuse", context=8)
    run = Run((3, 7, 1, 9, 2), 1, check=True)
    expected = functional.run(program, run)
    size = len(program.memory[0])
    for port, data in enumerate(run.prepare(program)):
        (directory / f"port{port}.bin").write_bytes(data.tobytes())
    halves = [(p, half, base >> 32 * half & 0xFFFF_FFFF) for p, base in enumerate(bases) for half in range(2)]
    options = {
        "wiring": wiring,
        "bases": bases,
        "shell": {shell.base_register(p) + 4 * half: value for p, half, value in halves} if any(bases) else {},
        "size": size,
        "seed": 5,
        "share": share,
        "registers": run.registers(program),
        "patience": 400,
        **more,
    }
    (directory / "bench.json").write_text(json.dumps(options))
    environment = simulation_environment() | {
        "SKIPOPU_BENCH": str(directory / "bench.json"),
        "COCOTB_TOPLEVEL": top,
        "COCOTB_TEST_MODULES": f"tests.hw.memory.{bench}",
        "COCOTB_RESULTS_FILE": str(directory / "results.xml"),
    }
    with (directory / "log").open("w") as log:
        command = [str(build(machine, bare=top, verilog=verilog))]
        subprocess.run(command, cwd=directory, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)
    assert json.loads((directory / "result.json").read_text())["status"] & STATUS_DONE, (directory / "log").read_text()[-3000:]
    final = [np.fromfile(directory / f"final{port}.bin", np.uint8) for port in range(machine.ports)]
    assert differing_bits(program, expected, dataclasses.replace(expected, memory=final)) == 0


@pytest.mark.rtl
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_against_an_independent_bus_model(tmp_path: Path, share: float) -> None:
    run_on_buses(tmp_path, share, OVERLAY, [0, 0], "overlay", None)


@pytest.mark.rtl
@pytest.mark.parametrize("wiring", [SHELL, GEARED], ids=["shell", "gearboxes"])
def test_vendor_shell(tmp_path: Path, wiring: dict) -> None:
    """The same through a shell's control port, base addresses and, at half the width and another clock, gearboxes."""
    geared = len(wiring["clocks"]) == 2
    text = shell_verilog(Machine.load("tiny"), geared)
    run_on_buses(tmp_path, 0.3, wiring, [0x4_3000, 0x1_0000], shell.MODULE, text)
