"""What the results of study ``fusion`` are counted on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiler.passes.schedule import Schedule
from sim.profile import exposed
from sim.result import Routed
from sim.routing import independent
from sim.timeline import Span
from sim.timing import engine as timing
from skipopu.model_config import ModelConfig
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.report import Keys

SHAPE, TARGET = "llama-2-7b", "u280"
PROMPTS = (128, 256, 512, 1024)  # the paper's prompt lengths
DECODE_AT, DECODED = 640, 8  # mean context of [128 in, 1024 out]; tokens averaged
SKIP, SEED = 0.25, 0
CONTEXT = max(*PROMPTS, DECODE_AT + 1 + DECODED)
KEYS: Keys = {"engine": "timing", "target": TARGET, "model": SHAPE}  # of a record about the large machine
STEPS = {
    Schedule.UNFUSED: "unfused",
    Schedule.REDUCTIONS: "+ reductions separated",
    Schedule.EPILOGUES: "+ epilogues fused",
    Schedule.ATTENTION: "+ attention pipelined",
    Schedule.RUN_AHEAD: "+ weights run ahead",
}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Phase:
    """Cycles of one phase of one run: all, exposed, with the array's multipliers at work."""

    cycles: int
    exposed: int
    array_busy: int


def phase(counters: dict[str, int], before: dict[str, int] | None = None, share: int = 1) -> Phase:
    """``counters`` less those of a run up to ``before``, per ``share``-th."""
    part = counters if before is None else {name: value - before[name] for name, value in counters.items()}
    return Phase(part["CYCLES"] // share, exposed(part) // share, part["ARRAY_BUSY"] // share)


def routing(model: ModelConfig, tokens: int, attention: float, ffn: float) -> NDArray[np.bool_]:
    return independent(model.num_layers, tokens, attention, ffn, SEED)


def count(
    program: Program, executed: NDArray[np.bool_], prompt: int, new: int, spans: list[Span] | None = None
) -> dict[str, int]:
    """Counters of a run of ``prompt`` and ``new`` tokens under a routing trace."""
    trace = executed[:, :, : prompt + new]
    run = Run((0,) * prompt, new)
    return timing.run(program, run, timing.Options(Routed(tokens=[0] * new, routing=trace), spans)).counters
