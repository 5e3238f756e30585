"""Another simulator's reading of the generated Verilog: four-valued, with its own order of events."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from compiler.pipeline import compile_checkpoint
from sim.check import differing_bits
from sim.functional import engine as functional
from sim.fuzz.choices import thresholds
from sim.rtl import engine as rtl
from sim.rtl.build import build_icarus
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.program.run import Run
from tests.support import random_checkpoint, small_config, smallest_config

pytestmark = [
    pytest.mark.rtl,
    pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed"),
]


def test_icarus_takes_the_verilog() -> None:
    assert build_icarus(Machine.load("u280-slice4")).exists()


@pytest.mark.parametrize("target", ["mono", "tiny-masks"], ids=["rows", "stationary"])
def test_a_port_without_an_entry_says_nothing(target: str) -> None:
    """One token on two ports: what the second one's memories hold, x here, reaches no sum."""
    machine = Machine.from_dict({**Machine.load(target).to_dict(), "name": "duo", "ports": 2})
    program = compile_checkpoint(random_checkpoint(smallest_config(), 3), machine, "reuse", context=8)
    run = Run((3,), 1, check=True)
    result, expected = rtl.run(program, run, rtl.Options(icarus=True, cycle_limit=12_000)), functional.run(program, run)
    assert result.tokens == expected.tokens
    assert result.saturated == expected.saturated
    assert differing_bits(program, expected, result) == 0


@pytest.mark.parametrize(
    ("target", "config"),
    [("mono", smallest_config()), ("tiny", small_config()), ("tiny-masks", small_config())],
    ids=["mono", "tiny", "tiny-masks"],
)
def test_icarus_computes_the_same_bits(target: str, config: ModelConfig) -> None:
    machine, checkpoint = Machine.load(target), random_checkpoint(config, 3)
    if machine.masks:
        checkpoint = dataclasses.replace(checkpoint, masks=thresholds(config, seed=5, spread=200, fixed=0.1))
    program = compile_checkpoint(checkpoint, machine)
    run = Run((3, 5, 9), 2, check=True)
    result, expected = rtl.run(program, run, rtl.Options(icarus=True)), functional.run(program, run)
    assert result.tokens == expected.tokens
    assert differing_bits(program, expected, result) == 0
    assert bool(result.counters.get("CHANNELS_LEFT_OUT")) == machine.masks
