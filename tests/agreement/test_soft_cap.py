"""Capped scores: the same bits in RTL, cycles that the timing engine predicts."""

from __future__ import annotations

import pytest

from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.rtl import engine as rtl
from sim.timing import engine as timing
from skipopu.machine.config import Machine
from skipopu.program.run import Run
from tests.agreement.test_rtl import agree
from tests.support import random_checkpoint, small_config

pytestmark = [pytest.mark.rtl, pytest.mark.timeout(600)]


@pytest.mark.parametrize(("cap", "kv", "stall"), [(0.5, "reuse", 0), (50.0, "dense", 0), (5.0, "reuse", 90)])
def test_several_heads_and_skips(cap: float, kv: str, stall: int) -> None:
    config = small_config(num_layers=3, num_heads=6, num_kv_heads=3, attention_cap=cap, windows=(0, 9, 0))
    program = compile_checkpoint(random_checkpoint(config, 1), Machine.load("tiny"), kv, context=60)
    run = Run(tuple(range(1, 30)), 14, check=True)
    expected = functional.run(program, run)
    assert 0.2 < expected.routing.mean() < 0.95
    seen = agree(program, run, rtl.Memory(stall=stall, reorder=stall > 0, seed=3)).counters
    if not stall:
        predicted = timing.run(program, run, timing.Options(expected)).counters
        assert predicted["ATTENTION_BUSY"] == seen["ATTENTION_BUSY"]
        assert abs(predicted["CYCLES"] / seen["CYCLES"] - 1) < 0.02
