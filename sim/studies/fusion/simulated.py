"""Each step in RTL on the small machine, beside the timing engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.frontend.checkpoint import load
from compiler.passes.schedule import Schedule
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.rtl import engine as rtl
from sim.studies.fusion.setting import STEPS, Phase, Say, phase
from sim.timing import engine as timing
from skipopu.errors import SkipopuError
from skipopu.machine.config import Machine
from skipopu.program.run import Run
from skipopu.report import Cell, Record, Report, Table, shown

SMALL = "tiny"
PROMPT = b"def read(self, size=-1):\n"
NEW_TOKENS = 16


@dataclass(frozen=True)
class Simulated:
    """One step on the small machine."""

    step: Schedule
    rtl: Phase
    timing: Phase
    busy_equal: bool


def simulate(model: Path, say: Say) -> list[Simulated]:
    """The shipped model on ``tiny``, RTL beside the timing engine; bits are compared with the functional engine's."""
    checkpoint, machine = load(model, mask_file=False), Machine.load(SMALL)
    rows = []
    for step in Schedule:
        say(f"RTL of {machine.name}, {STEPS[step]}")
        program = compile_checkpoint(checkpoint, machine, level=step)
        run = Run(tuple(PROMPT), NEW_TOKENS)
        expected = functional.run(program, run)
        seen = rtl.run(program, run)
        if seen.tokens != expected.tokens:
            raise SkipopuError(f"{STEPS[step]}: RTL gives {seen.tokens}, the functional engine {expected.tokens}")
        predicted = timing.run(program, run, timing.Options(expected)).counters
        busy = [name for name in predicted if name.endswith("_BUSY")]
        equal = all(predicted[name] == seen.counters[name] for name in busy)
        rows.append(Simulated(step, phase(seen.counters), phase(predicted), equal))
    return rows


def report(rows: Sequence[Simulated], model: str) -> Report:
    listed: list[Record] = []
    lines: list[list[Cell]] = []
    first = rows[0].rtl.cycles
    for row in rows:

        def put(engine: str, name: str, value: int, step: str = row.step.name.lower()) -> Record:
            source = f"schedule {step}, {engine} counters"
            listed.append(Record(name, value, "cycle", "simulated", source, engine=engine, target=SMALL, model=model))
            return listed[-1]

        cycles, exposed_cycles = put("rtl", "cycles", row.rtl.cycles), put("rtl", "exposed_cycles", row.rtl.exposed)
        predicted, _ = put("timing", "cycles", row.timing.cycles), put("timing", "exposed_cycles", row.timing.exposed)
        lines.append(
            [
                STEPS[row.step],
                shown("{:,}", cycles),
                shown(lambda n: f"{1 - n / first:.1%}", cycles),
                shown(lambda part, n: f"{part / n:.1%}", exposed_cycles, cycles),
                shown(lambda mine, its: f"{mine / its - 1:+.1%}", predicted, cycles),
                "equal" if row.busy_equal else "differ",
            ]
        )
    columns = ["schedule", "RTL cycles", "saved", "exposed", "timing engine", "busy cycles"]
    title = f"Shipped model on {SMALL}: prompt of {len(PROMPT)} bytes + {NEW_TOKENS} tokens"
    return Report([Table(title, columns, lines)], listed=listed)
