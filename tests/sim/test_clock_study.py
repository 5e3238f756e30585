"""The estimate of a clock is held against a router's: a few units here, all of them by ``skipopu study clock``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hw.emit import overlay_verilog
from hw.synthesis import Design
from sim.studies.clock import FITTED, HELD, rates
from skipopu.machine.config import Machine

WITHIN = 0.15
RECORDS = Path(__file__).parents[2] / "docs" / "clock.json"


@pytest.mark.synth
@pytest.mark.parametrize("unit", ["kv_fetch", "records", "weights", "queue_array"])
def test_estimate_is_near_what_a_router_reaches(unit: str) -> None:
    assert unit in HELD["ulx3s"]
    found = rates(Design(overlay_verilog(Machine.load("ulx3s"))), "ulx3s", unit)
    assert abs(found.error) <= WITHIN
    committed = {
        record["name"]: record["value"] for record in json.loads(RECORDS.read_text())["records"] if record["target"] == "ulx3s"
    }
    assert found.estimated == pytest.approx(committed[f"{unit}.estimated_mhz"], rel=0.02), "run `skipopu study clock` again"


def test_committed_study_has_a_dozen_units_that_nothing_was_fitted_to() -> None:
    records = [r for r in json.loads(RECORDS.read_text())["records"] if r["name"].endswith(".error")]
    fitted = {f"{unit}.error" for unit in FITTED}
    held = [r["value"] for r in records if not (r["target"] == "ulx3s" and r["name"] in fitted)]
    assert len(held) >= 12
    assert sum(abs(value) <= 100 * WITHIN for value in held) >= 3 / 4 * len(held)
