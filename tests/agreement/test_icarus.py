"""Another simulator's reading of the generated Verilog."""

from __future__ import annotations

import shutil

import pytest

from compiler.pipeline import compile_checkpoint
from sim.check import differing_bits
from sim.functional import engine as functional
from sim.rtl import engine as rtl
from sim.rtl.build import build_icarus
from skipopu.isa.program import Run
from skipopu.machine.config import Machine
from tests.support import random_checkpoint, smallest_config

NEEDED = pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")


@pytest.mark.rtl
@NEEDED
@pytest.mark.parametrize("target", ["mono", "tiny", "u280-slice4"])
def test_icarus_takes_the_verilog(target: str) -> None:
    assert build_icarus(Machine.load(target)).exists()


@pytest.mark.long
@NEEDED
@pytest.mark.timeout(7200)
def test_icarus_computes_the_same_bits() -> None:
    program = compile_checkpoint(random_checkpoint(smallest_config(), 3), Machine.load("mono"))
    run = Run((3, 5), 1, check=True)
    result, expected = rtl.run(program, run, icarus=True), functional.run(program, run)
    assert result.tokens == expected.tokens
    assert differing_bits(program, expected, result) == 0
