"""Routers of two layers: functional engine, RTL and timing on the same programs."""

from __future__ import annotations

import pytest

from compiler.passes.schedule import Schedule
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.rtl import engine as rtl
from sim.timing import engine as timing
from skipopu.machine.config import Machine
from skipopu.policy import KvPolicy
from skipopu.program.run import Run
from tests.agreement.test_rtl import agree
from tests.support import random_checkpoint, small_config

pytestmark = [pytest.mark.timeout(600), pytest.mark.rtl]
RUN = Run(tuple(range(1, 10)), 3, check=True)


@pytest.mark.parametrize("kv", KvPolicy)
def test_bits_and_cycles(kv: KvPolicy) -> None:
    program = compile_checkpoint(
        random_checkpoint(small_config(), 3, routers="two-layer"), Machine.load("tiny"), kv, context=16
    )
    agree(program, RUN, rtl.Memory(stall=60, seed=2))
    seen, expected = agree(program, RUN, rtl.Memory()), functional.run(program, RUN)
    assert 0.1 < expected.executed_share < 0.95
    predicted = timing.run(program, RUN, timing.Options(expected)).counters
    assert predicted["READ_BEATS"] == seen.counters["READ_BEATS"]
    assert abs(predicted["CYCLES"] / seen.counters["CYCLES"] - 1) < 0.03


@pytest.mark.parametrize(("level", "change"), [(Schedule.UNFUSED, {}), (Schedule.REDUCTIONS, {"parallel": True})])
def test_taken_apart(level: Schedule, change: dict[str, object]) -> None:
    """Alignments of their own, and a residual that the whole layer reads; halves that are no whole words."""
    config = small_config(hidden_size=72, biases=("v", "o"), **change)
    checkpoint = random_checkpoint(config, 4, routers="two-layer")
    program = compile_checkpoint(checkpoint, Machine.load("tiny"), context=16, group=32, weights="int8", level=level)
    agree(program, RUN, rtl.Memory())
