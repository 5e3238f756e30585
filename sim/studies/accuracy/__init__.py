"""Study ``accuracy``: what a model's loss and the bytes that it reads for a token are, by weights' format, quantiser,
skipping of modules and masks of channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from compiler.frontend.checkpoint import load
from sim import parallel
from sim.quantise.turned import can_turn
from sim.studies.accuracy import show
from sim.studies.accuracy.extra import corrections, mixtures
from sim.studies.accuracy.masks import calibrated
from sim.studies.accuracy.plot import draw
from sim.studies.accuracy.points import bound, dials, of_format
from sim.studies.accuracy.setting import FP32, SHIPPED, TURNED, Design, Point, Subject
from skipopu.errors import ProgramError, SkipopuError
from skipopu.machine.config import Machine
from skipopu.numerics.formats import FORMATS, INT8
from skipopu.report import Plot, Report

Say = Callable[[str], None]
Job = tuple[Subject, str]


CORRECTIONS, MIXTURES = "corrections", "mixtures"
WORK = {FP32: bound, CORRECTIONS: corrections, MIXTURES: mixtures}


def work(job: Job) -> list[Point]:
    """One job: all points of a model in one format, or of what more bytes buy."""
    subject, name = job
    return WORK[name](subject) if name in WORK else of_format(subject, name)


def study(model: Path, design: Design, say: Say) -> tuple[list[Point], list[Point]]:
    """All points, forms and formats in order, and those of what more bytes buy."""
    machine = Machine.load(design.target)
    if INT8.name not in machine.formats:
        raise ProgramError(
            f"machine {machine.name} has not {INT8.name}, which corrections are held against; accepted: one with it"
        )
    forms = (SHIPPED, TURNED) if can_turn(load(model)) else (SHIPPED,)
    with parallel.one_thread_each(design.workers) as pool:
        say("dials and masks")
        plain = Subject(model, design, SHIPPED)
        ways = (True, False) if load(model).routers else (True,)
        dialled, *chosen = (pool.submit(dials, plain), *(pool.submit(calibrated, plain, dense) for dense in ways))
        found, masks = dialled.result(), tuple(one for future in chosen for one in future.result())
        jobs: list[Job] = [
            (Subject(model, design, form, found, masks), format.name)
            for form in forms
            for format in FORMATS
            if format.name in machine.formats
        ]
        jobs.append((Subject(model, design, SHIPPED, found), FP32))  # turning changes no function
        jobs += [(Subject(model, design, forms[-1]), name) for name in (CORRECTIONS, MIXTURES)]
        done: dict[int, list[Point]] = {}
        for number, outcome in parallel.finished(pool, work, jobs):
            if isinstance(outcome, SkipopuError):
                raise outcome
            done[number] = outcome
            subject, name = jobs[number]
            say(f"{len(done)} of {len(jobs)} done, the latest {subject.form}, {name}")
    usual, bought = (
        [point for number in sorted(done) if (jobs[number][1] in (CORRECTIONS, MIXTURES)) is extra for point in done[number]]
        for extra in (False, True)
    )
    return usual, bought


def report(model: Path, design: Design, say: Say = lambda text: None) -> Report:
    """Minutes on two cores; the same design gives the same points."""
    points, more = study(model, design, say)
    whole = show.report(points, more, model.name, design)
    plot = Plot("accuracy", lambda figure: draw(figure, points, more), (15, 5.2))
    return dataclasses.replace(whole, plots=[plot])
