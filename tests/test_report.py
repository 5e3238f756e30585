"""Reports: what a table shows is what files hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skipopu.plots import png, svg
from skipopu.report import Plot, Record, Report, Table, joined, shown, write_json
from skipopu.terminal import show

RATE = Record("rate", 12.3456, "token/s", "simulated", "here", digits=".2f")
SIZE = Record("size", 1499.6, "byte", "derived", "there", model="m", digits=".0f")
TABLE = Table(
    "Rates",
    ["what", "rate", "why"],
    [["first", shown("{:.1f}", RATE), "[b]"], ["second", shown(lambda size, rate: f"{size / rate:.0f}", SIZE, RATE), ""]],
    "A note.",
    marked=[0],
    aside=["why"],
)


def test_every_figure_is_in_the_file_once(tmp_path: Path) -> None:
    other = Record("other", None, "s", "measured", "missing")
    report = joined([Report([TABLE], listed=[other]), Report(findings=["said"])])
    assert report.records == [other, RATE, SIZE]
    write_json(tmp_path / "x.json", "test", {}, report.records)
    assert json.loads((tmp_path / "x.json").read_text())["records"] == [
        {"name": "other", "value": None, "unit": "s", "kind": "measured", "source": "missing"},
        {"name": "rate", "value": 12.35, "unit": "token/s", "kind": "simulated", "source": "here"},
        {"name": "size", "value": 1500, "unit": "byte", "kind": "derived", "source": "there", "model": "m"},
    ]
    assert (report.tables, report.findings) == ([TABLE], ["said"])


def test_markdown() -> None:
    rows = "| what | rate | why |\n|---|---|---|\n| first | 12.3 | [b] |\n| second | 121 |  |"
    assert Report([TABLE, TABLE]).markdown == f"**Rates**\n\n{rows}\n\n**Rates**\n\n{rows}\n"
    assert Report([TABLE], findings=["one", "two"]).markdown == f"**Rates**\n\n{rows}\n\n- one\n- two\n"


def test_a_terminal_s_table(capsys: pytest.CaptureFixture[str]) -> None:
    show(TABLE)
    lines = capsys.readouterr().out.splitlines()
    assert "Rates" in lines[0]
    assert [line for line in lines if line.startswith("│")] == ["│ first  │ 12.3 │", "│ second │  121 │"]
    assert "why" not in "".join(lines)


def test_plots_are_the_same_bytes(tmp_path: Path) -> None:
    plot = Plot("line", lambda figure: figure.subplots().plot([1, 2, 4]), (3, 2))
    first = png(plot, tmp_path).read_bytes()
    assert first == png(plot, tmp_path).read_bytes()
    assert svg(plot) == svg(plot)
    assert svg(plot).startswith("<svg ")
