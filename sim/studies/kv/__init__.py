"""Study ``kv``: how fast attention reads keys and values, what the history buffer spares, and what they occupy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from compiler.frontend.shapes import outline
from sim.studies.kv import buffer, calibration, points, routing, storage, sweeps
from sim.studies.kv.plot import draw
from sim.studies.kv.setting import SHAPE, SHARING, TARGET
from skipopu.machine.config import Machine
from skipopu.report import Plot, Report, joined

Say = Callable[[str], None]


def report(model: Path, say: Say = lambda text: None) -> Report:
    """Runs everything; about a minute, and two more when the RTL is not built yet."""
    machine, config = Machine.load(TARGET), outline(SHAPE).config
    say("RTL memory against published points")
    parts = [calibration.report()]
    say(f"{SHAPE} on {TARGET}: the paper's points")
    five = points.points(machine, config)
    say("contexts, skip ratios, capacities")
    swept = sweeps.sweeps(machine, config)
    parts += [points.report(five), sweeps.report(swept), sweeps.heads_report([machine, Machine.load(SHARING)])]
    say("routing of held-out text")
    traces = routing.traces(model)
    rows, last, entry = buffer.simulate(model, say)
    parts += [routing.report(traces, model.name), buffer.report(rows, model.name)]
    say("decoding with and without the history buffer")
    parts += [storage.report(storage.storage(last, entry, machine, config)), storage.decode_report(machine)]
    plot = Plot("kv-memory", lambda figure: draw(figure, machine, five, swept, traces), (15, 8))
    return joined([*parts, Report(plots=[plot])])
