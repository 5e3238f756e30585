"""Runs that are ended in the middle of anything, on a vendor shell with independent bus models: what follows is as ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hw.shell.shell
import hw.wiring.units
from hw.emit import overlay_verilog
from hw.shell.shell import shell_verilog
from skipopu import shell
from skipopu.machine.config import Machine
from tests.hw.memory.test_axi import SHELL, run_on_buses

STILL = 1 << 10  # cycles: enough of a stand-still here
LATEST = 9_000  # cycles; the run goes on for longer


@pytest.mark.rtl
@pytest.mark.parametrize("seed", range(2))
def test_what_follows_an_ended_run_is_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Aborted a dozen times at random moments, without a program, without its end, and by a memory that goes silent."""
    aborts = sorted(np.random.default_rng(seed).integers(1, LATEST, 12).tolist())
    monkeypatch.setattr(hw.wiring.units, "WATCHDOG_CYCLES", STILL)
    monkeypatch.setattr(hw.shell.shell, "overlay_verilog", overlay_verilog.__wrapped__)
    text = shell_verilog(Machine.load("tiny"), gearbox=False)
    more = {"aborts": aborts, "still": STILL}
    run_on_buses(tmp_path, 0.3, SHELL, [0x4_3000, 0x1_0000], shell.MODULE, text, "recovery_bench", **more)
