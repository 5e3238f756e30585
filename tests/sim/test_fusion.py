"""The study's committed figures are what the timing engine counts today, and they reach what they should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compiler.frontend.shapes import outline
from compiler.passes.schedule import Schedule
from sim.studies.fusion.counted import count_step, share_of_peak
from sim.studies.fusion.setting import DECODE_AT, PROMPTS, SHAPE, SKIP, TARGET
from skipopu.machine.config import Machine

RECORDS = json.loads((Path(__file__).parents[2] / "docs" / "fusion.json").read_text())["records"]


@pytest.mark.studies
def test_fused_figures() -> None:
    row = count_step(Schedule.RUN_AHEAD)
    committed = {
        (r["phase"], r["context"], r["skip"]): r["value"]
        for r in RECORDS
        if r["name"] == "cycles" and r["source"] == "schedule run_ahead, timing engine"
    }
    seen = {("prefill", f"{n}+0", 0.0): p.cycles for n, p in row.prefill.items()}
    seen |= {("decode", f"{DECODE_AT}+1", skip): p.cycles for skip, p in ((0.0, row.decode), (SKIP, row.decode_skipping))}
    assert seen == committed, "run `skipopu study fusion -o docs --update docs/fusion.md`"
    machine, shape = Machine.load(TARGET), outline(SHAPE).config
    for n in PROMPTS:
        assert row.prefill[n].exposed < 0.03 * row.prefill[n].cycles
        assert n < 256 or share_of_peak(machine, shape, n, row.prefill[n].cycles) >= 0.9
    for part in (row.decode, row.decode_skipping):
        assert part.exposed < 0.03 * part.cycles


def test_the_study_left_no_bit_changed() -> None:
    assert {r["source"] for r in RECORDS if r.get("engine") == "rtl"} == {
        f"schedule {step.name.lower()}, rtl counters" for step in Schedule
    }
