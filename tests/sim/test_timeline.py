"""The timeline: nothing overlaps on a unit, and the file is what Perfetto reads."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np

from compiler.pipeline import compile_checkpoint
from sim.profile import exposed, profile
from sim.result import Routed
from sim.timeline import TRACKS, Span, draw, write_perfetto
from sim.timing import engine as timing
from skipopu.machine.config import Machine
from skipopu.plots import png
from skipopu.program.run import Run
from skipopu.report import Plot
from tests.support import random_checkpoint, small_config


def test_timeline_and_profile(tmp_path: Path) -> None:
    program = compile_checkpoint(random_checkpoint(small_config(), 1), Machine.load("tiny"), context=40)
    spans: list[Span] = []
    executed = np.ones((2, 2, 12), bool)
    result = timing.run(program, Run(tuple(range(9)), 3), timing.Options(Routed(tokens=[0] * 3, routing=executed), spans))
    for track in TRACKS:
        bars = sorted((span.start, span.end) for span in spans if span.track == track)
        assert bars
        if track != "weights":
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(bars)), track
    assert max(span.end for span in spans) <= result.counters["CYCLES"]
    write_perfetto(tmp_path / "trace.json", spans, 100.0)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["args"]["name"] for event in events if event["ph"] == "M"} == set(TRACKS)
    assert sum(event["ph"] == "X" for event in events) == len(spans)
    picture = png(Plot("plot", lambda figure: draw(figure, [("all", spans)]), (11, 1.9), constrained=False), tmp_path)
    assert picture.stat().st_size > 1000
    for row in profile(result.counters):
        assert row.busy > 0
        assert row.idle >= 0, row.unit
    assert 0 < exposed(result.counters) < result.counters["CYCLES"]
