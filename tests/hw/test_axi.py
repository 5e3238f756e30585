"""The overlay's AXI4 and AXI4-Lite ports against cocotbext-axi, with random stalls on every channel."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from compiler.pipeline import compile_checkpoint
from sim.check import differing_bits
from sim.engine import Result
from sim.functional import engine as functional
from sim.rtl.build import build, simulation_environment
from skipopu.isa.program import Run, address_units
from skipopu.isa.registers import STATUS_DONE
from skipopu.machine.config import Machine
from tests.support import random_checkpoint, small_config


@pytest.mark.rtl
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_against_an_independent_bus_model(tmp_path: Path, share: float) -> None:
    machine = Machine.load("tiny")
    config = small_config(hidden_size=40, intermediate_size=50, num_heads=2, num_kv_heads=1, vocab_size=20)
    program = compile_checkpoint(random_checkpoint(config, 4), machine, "reuse", context=8)
    run = Run((3, 7, 1, 9, 2), 1, check=True)
    expected = functional.run(program, run)
    size = len(program.memory[0])
    for port, data in enumerate(run.prepare(program)):
        (tmp_path / f"port{port}.bin").write_bytes(data.tobytes())
    ring = program.regions["ring"]
    registers = {
        "PROGRAM": 0,
        "PROGRAM_LENGTH": len(program.instructions),
        "PROMPT_LENGTH": 5,
        "MAX_NEW": 1,
        "CHECK": 1,
        "RING": address_units(ring.address),
        "RING_RECORDS": program.ring_records,
    }
    options = {"ports": machine.ports, "size": size, "seed": 5, "share": share, "registers": registers, "patience": 400}
    (tmp_path / "bench.json").write_text(json.dumps(options))
    environment = simulation_environment() | {
        "SKIPOPU_BENCH": str(tmp_path / "bench.json"),
        "COCOTB_TOPLEVEL": "overlay",
        "COCOTB_TEST_MODULES": "tests.hw.axi_bench",
        "COCOTB_RESULTS_FILE": str(tmp_path / "results.xml"),
    }
    with (tmp_path / "log").open("w") as log:
        command = [str(build(machine, bare=True))]
        subprocess.run(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)
    assert json.loads((tmp_path / "result.json").read_text())["status"] & STATUS_DONE, (tmp_path / "log").read_text()[-3000:]
    final = [np.fromfile(tmp_path / f"final{port}.bin", np.uint8) for port in range(machine.ports)]
    assert differing_bits(program, expected, Result(expected.tokens, expected.routing, final)) == 0
