"""Waves of a window of tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.pipeline import compile_checkpoint
from sim.rtl import engine as rtl
from skipopu.isa.program import Run
from skipopu.machine.config import Machine
from tests.support import random_checkpoint, small_config


@pytest.mark.rtl
def test_only_the_window_is_recorded(tmp_path: Path) -> None:
    config = small_config(hidden_size=32, intermediate_size=32, num_heads=2, num_kv_heads=1, num_layers=1)
    program = compile_checkpoint(random_checkpoint(config), Machine.load("mono"), context=12)
    path = tmp_path / "w.vcd"
    cycles = rtl.run(program, Run((1, 2, 3, 4), 4), waves=rtl.Window(path, 4, 5)).counters["CYCLES"]
    times = [int(line[1:]) for line in path.read_text().splitlines() if line.startswith("#")]
    assert "dispatch" in path.read_text()
    recorded = (times[-1] - times[0]) // 10_000  # 10 ns clock, 1 ps resolution
    assert 500 < recorded < cycles / 2
