"""Skip policies in the RTL: every bit of the functional engine, on a model whose residual tells tokens apart."""

from __future__ import annotations

from typing import Any

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

MASKS = {
    "decode": {"ffn": "never"},
    "layers": {"1": {"prefill": {"attention": "never"}}, "2": {"attention": "exit", "ffn": "always"}, "3": {"ffn": "top3"}},
}
PROMPT = tuple(range(1, 11))


@pytest.mark.parametrize("kv", ["reuse", "dense"])
@pytest.mark.parametrize(
    ("policies", "routing", "dial"),
    [(MASKS, "program", 0.0), (None, "exit", -1.0), (None, "norm", 0.4), (None, "norm", 3e38), (None, "top2", 0.0)],
)
def test_policies(kv: str, policies: Any, routing: str, dial: float) -> None:
    checkpoint = random_checkpoint(small_config(num_layers=4), 1)
    program = compile_checkpoint(checkpoint, Machine.load("tiny"), kv, context=20, policies=policies)
    run = Run(PROMPT, 4, dial, True, routing)
    seen = agree(program, run, rtl.Memory())
    expected = functional.run(program, run)
    executed = expected.routing.sum((0, 2))
    assert 0 < executed.sum() < expected.routing.size
    assert [seen.counters["EXECUTED_ATTENTION"], seen.counters["EXECUTED_FFN"]] == executed.tolist()
    counted = timing.run(program, run, timing.Options(expected)).counters["CYCLES"]
    assert abs(counted / seen.counters["CYCLES"] - 1) < 0.03
