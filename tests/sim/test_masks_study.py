"""The study of masks on a shipped model: loss, bytes and cycles beside one another."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from sim.calibrate.rules import WINA
from sim.calibrate.work import UNIFORM
from sim.studies.accuracy import masks
from sim.studies.accuracy.setting import Design
from sim.studies.masks import shipped as study

pytestmark = [pytest.mark.studies, pytest.mark.timeout(1800)]


def test_fewer_bytes_are_fewer_cycles(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everything executes; and the timing engine knows how many."""
    ways = ((WINA, UNIFORM),)  # ratios of each input take minutes to find
    monkeypatch.setattr(study, "WAYS", ways)
    monkeypatch.setattr(masks, "WAYS", ways)
    monkeypatch.setattr(study, "NEW", 9)
    monkeypatch.setattr(study, "SHARES", (0.4,))
    monkeypatch.setattr(study, "Design", partial(Design, size=1024, samples=8, judged=4))
    table = study.table(shipped, lambda doing: None)
    assert len(table.rows) == 9
    found = {(r.name, r.system, r.kv, r.target, r.masked): r.value for r in table.records if isinstance(r.value, float)}
    assert all(abs(value) < 0.03 for key, value in found.items() if key[0] == "cycle_error")
    for name, system, kv, most in (
        ("bytes_read", "always", "reuse", 0.75),
        ("bytes_read", "routers", "dense", 0.8),
        ("bytes_read", "routers", "reuse", 0.85),
        ("decode_cycles_per_token", "always", "reuse", 0.95),
    ):
        without, left_out = (found[name, system, kv, study.TARGET, masked] for masked in (None, 0.4))
        assert left_out < most * without, (name, system, kv)
