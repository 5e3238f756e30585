"""Layers with windows: the same bits in RTL, fewer entries read, cycles that the timing engine predicts."""

from __future__ import annotations

import dataclasses

import pytest

from compiler import emit
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.routing import independent
from sim.rtl import engine as rtl
from sim.timing import engine as timing
from skipopu.machine.config import Machine
from skipopu.program.run import Run
from tests.agreement.test_rtl import agree
from tests.support import random_checkpoint, small_config

pytestmark = [pytest.mark.rtl, pytest.mark.timeout(600)]

CONTEXT, TINY = 60, Machine.load("tiny")


@pytest.mark.parametrize("kv", ["reuse", "dense"])
@pytest.mark.parametrize("windows", [(8, 0, 5, 16), (1, 3, 0, 4), (20, 20, 20, 20)])
def test_several_windows_long(windows: tuple[int, ...], kv: str) -> None:
    config = small_config(num_layers=len(windows), windows=windows)
    program = compile_checkpoint(random_checkpoint(config, 1), TINY, kv, context=CONTEXT)
    run = Run(tuple(range(1, 38)), 14, check=True, routing=independent(len(windows), CONTEXT, 0.3, 0.3, 0))
    seen = agree(program, run, rtl.Memory()).counters
    predicted = timing.run(program, run, timing.Options(functional.run(program, run))).counters
    assert predicted["ATTENTION_BUSY"] == seen["ATTENTION_BUSY"]
    assert abs(predicted["READ_BEATS"] / seen["READ_BEATS"] - 1) < 0.005
    assert abs(predicted["CYCLES"] / seen["CYCLES"] - 1) < 0.03
    whole = compile_checkpoint(random_checkpoint(dataclasses.replace(config, windows=()), 1), TINY, kv, context=CONTEXT)
    full = timing.run(whole, run, timing.Options(functional.run(program, run))).counters
    assert seen["ATTENTION_BUSY"] < full["ATTENTION_BUSY"]
    assert seen["CYCLES"] < full["CYCLES"]


@pytest.mark.parametrize("windows", [(), (8, 0, 5, 16)])
@pytest.mark.parametrize("target", ["tiny", "tiny-masks"])
@pytest.mark.parametrize(("kv", "skip"), [("reuse", 0.3), ("dense", 0.3), ("reuse", 0.0)])
def test_decisions_far_ahead(kv: str, skip: float, target: str, windows: tuple[int, ...]) -> None:
    """Without routers a layer is decided while the one before works: nothing of that one may be disturbed."""
    config = small_config(num_layers=4, windows=windows)
    program = compile_checkpoint(random_checkpoint(config, 3, routers=False), Machine.load(target), kv, context=CONTEXT)
    run = Run(tuple(range(1, 30)), 10, check=True, routing=independent(4, CONTEXT, skip, skip, 0))
    seen = agree(program, run, rtl.Memory()).counters
    predicted = timing.run(program, run, timing.Options(functional.run(program, run))).counters
    assert abs(predicted["READ_BEATS"] / seen["READ_BEATS"] - 1) < 0.005
    assert abs(predicted["CYCLES"] / seen["CYCLES"] - 1) < 0.03


def test_slow_memory_and_routers() -> None:
    config = small_config(num_layers=4, windows=(8, 0, 5, 16))
    program = compile_checkpoint(random_checkpoint(config, 2), TINY, context=CONTEXT)
    seen = agree(program, Run(tuple(range(1, 30)), 20, check=True), rtl.Memory(stall=90, reorder=True, seed=3))
    assert seen.counters["AHEAD_BEATS"] > 0


def test_an_argmax_over_several_products(monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = small_config(vocab_size=500), Run(tuple(range(1, 8)), 5, check=True)
    one = functional.run(compile_checkpoint(random_checkpoint(config, 1), TINY, context=CONTEXT), run)
    monkeypatch.setattr(emit, "MOST_ROUNDS", 8)
    program = compile_checkpoint(random_checkpoint(config, 1), TINY, context=CONTEXT)
    assert sum("argmax" in note for note in program.notes) == 4
    assert agree(program, run, rtl.Memory()).tokens == one.tokens
