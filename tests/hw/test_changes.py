"""What a report says against an earlier one."""

from __future__ import annotations

from pathlib import Path

import pytest

from boards.board import COMMITTED
from hw.changes import changes, earlier, figures_of
from hw.command import resource_table
from hw.report import report
from skipopu.errors import SkipopuError
from skipopu.machine.config import Machine

MACHINE = Machine.load("ulx3s")


def test_only_what_differs_is_shown() -> None:
    before = {"a.lut": 100, "a.ff": 5, "b.lut": 7, "b.fmax_mhz": 80.0, "lut": 107, "fmax_mhz": 70.0}
    after = {"a.lut": 103, "a.ff": 5, "c.lut": 1, "lut": 104, "fmax_mhz": 70.0}
    found = {
        row[0]: dict(zip(["LUT", "FF", "DSP", "BRAM", "URAM", "levels", "MHz"], row[1:], strict=True))
        for row in changes(before, after).texts
    }
    assert list(found) == ["a", "b", "c", "whole"]
    assert found["a"]["LUT"] == "100 to 103 (+3.0%)"
    assert not found["a"]["FF"]
    assert (found["b"]["LUT"], found["b"]["MHz"], found["c"]["LUT"]) == ("7 to none", "80.0 to none", "none to 1")
    assert (found["whole"]["LUT"], found["whole"]["MHz"]) == ("107 to 104 (-2.8%)", "")
    assert not changes(before, before).rows


def test_another_file_or_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"inputs": {}, "records": []}')
    with pytest.raises(SkipopuError, match=r"other.json: not what skipopu hdl --report --json writes"):
        earlier(path, MACHINE, "ecp5")
    with pytest.raises(SkipopuError, match=r"kv260.json: a report of kv260 \(\w+\); accepted: of ulx3s as it is now"):
        earlier(COMMITTED / "kv260.json", MACHINE, "ecp5")
    with pytest.raises(SkipopuError, match=r"ulx3s.json: a report for ecp5; accepted: for ultrascale\+"):
        earlier(COMMITTED / "ulx3s.json", MACHINE, "ultrascale+")


@pytest.mark.synth
@pytest.mark.timeout(1500)
def test_the_committed_figures_are_what_synthesis_gives() -> None:
    """Of the smallest machine with a board: LUT, FF and MHz of each unit."""
    committed = earlier(COMMITTED / "ulx3s.json", MACHINE, "ecp5")
    found = figures_of(resource_table(MACHINE, "ecp5", report(MACHINE, "ecp5")).records)
    assert len(found) > 200
    assert changes(committed, found).texts == []
