"""A pytest plugin: simulations of the tests count what they reach, into the folder named by ``SKIPOPU_COVERAGE``.

``python -m pytest -p tests.coverage.plugin ...`` Each Verilog that is simulated has a folder there with the text, ``overlay.v``, and a
``.dat`` for each simulation that ended by itself.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from sim.rtl import build as rtl_build
from sim.rtl import engine
from skipopu.machine.config import Machine
from tests.coverage.instrument import instrumented

FOLDER = "SKIPOPU_COVERAGE"
LEVEL = 1
_build = rtl_build.build


def counting(machine: Machine, waves: str | None = None, verilog: str | None = None, **options: Any) -> Path:
    """Stands for :func:`sim.rtl.build.build`: what it returns runs a simulation that counts."""
    text = instrumented(rtl_build.cached_verilog(machine) if verilog is None else verilog)
    folder = Path(os.environ[FOLDER]) / f"{machine.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    folder.mkdir(exist_ok=True)
    (folder / "overlay.v").write_text(text)
    simulation = _build(machine, verilog=text, optimise=LEVEL, coverage=True)
    script = folder / "simulation"
    script.write_text(f'#!/bin/sh\nexec {simulation} "$@" +verilator+coverage+file+{folder}/$$.dat\n')
    script.chmod(0o755)
    return script


@pytest.fixture(autouse=True, scope="session")
def simulations_count() -> Any:
    """Also those of tests that build their simulations themselves."""
    from tests.agreement import test_recovery

    with pytest.MonkeyPatch.context() as patch:
        for module in (engine, test_recovery):
            patch.setattr(module, "build", counting)
        yield
