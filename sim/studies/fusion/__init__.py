"""Study ``fusion``: what each step of the fused dataflow saves, in RTL for a small machine and counted for a large one."""

from __future__ import annotations

from pathlib import Path

from compiler.frontend.shapes import outline
from compiler.passes.schedule import Schedule
from sim.studies.fusion import attention, counted, simulated
from sim.studies.fusion.setting import SHAPE, STEPS, TARGET, Say
from sim.studies.fusion.timelines import panels
from sim.timeline import draw
from skipopu.machine.config import Machine
from skipopu.report import Plot, Report, joined


def report(model: Path, say: Say = lambda text: None) -> Report:
    """Runs everything; about two minutes, and a minute more when the RTL is not built yet."""
    machine, shape = Machine.load(TARGET), outline(SHAPE).config
    parts = [simulated.report(simulated.simulate(model, say), model.name)]
    rows = []
    for step in Schedule:
        say(f"{SHAPE} on {TARGET}, {STEPS[step]}")
        rows.append(counted.count_step(step))
    parts += [counted.report(rows, machine, shape), counted.first_token_report(rows[-1], machine, shape)]
    parts.append(attention.report(attention.speed_up(machine, say)))
    return joined(
        [*parts, Report(plots=[Plot("timeline", lambda figure: draw(figure, panels()), (11, 7.6), constrained=False)])]
    )
