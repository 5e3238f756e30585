"""Waves of a window of tokens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compiler.pipeline import compile_checkpoint
from sim.rtl import engine as rtl
from sim.rtl.build import bench_verilog, require_scope
from skipopu.errors import ProgramError, SkipopuError
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from tests.support import Followed, random_checkpoint, small_config


@pytest.fixture(scope="module")
def program() -> Program:
    config = small_config(hidden_size=32, intermediate_size=32, num_heads=2, num_kv_heads=1, num_layers=1)
    return compile_checkpoint(random_checkpoint(config), Machine.load("mono"), context=12)


RUN = Run((1, 2, 3, 4), 4)


@pytest.mark.parametrize(("start", "stop"), [(-3, 1), (5, 2), (4, 4), (0, 1 << 32)])
def test_an_impossible_window_is_refused(tmp_path: Path, start: int, stop: int) -> None:
    with pytest.raises(ProgramError, match=f"{start}:{stop}"):
        rtl.Window(tmp_path / "w.vcd", start, stop)


@pytest.mark.parametrize("name", ["none/w.vcd", "w.txt", "w", "folder.vcd"])
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.vcd").mkdir()
    with pytest.raises(ProgramError, match=name.split("/")[0]):
        rtl.Window(tmp_path / name, 0, 1)


def test_a_window_behind_the_end_is_refused_before_the_run(program: Program, tmp_path: Path) -> None:
    rtl.Window(tmp_path / "w.vcd", 6, 7).check(program, RUN)
    with pytest.raises(ProgramError, match="0 to 6"):
        rtl.Window(tmp_path / "w.vcd", 7, 8).check(program, RUN)
    with pytest.raises(ProgramError, match="0 to 3"):
        rtl.Window(tmp_path / "w.vcd", 4, 8).check(program, Run(RUN.prompt, 0))


def test_a_scope_is_an_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    verilog = "module \\overlay.unit (clk);\n  tile t0 (\n  );\nendmodule\nmodule overlay(clk);\n  \\overlay.unit  unit (\n  );\nendmodule\n"
    monkeypatch.setattr("sim.rtl.build.cached_verilog", lambda machine: verilog)
    for good in ("overlay", "overlay.unit", "overlay.unit.t0"):
        require_scope(Machine.load("mono"), good)
    for bad, there in (
        ("overlay.unti", "unit"),
        ("overlay.unit.t1", "t0"),
        ("unit", "overlay"),
        ("overlay.unit.t0.x", "no units"),
    ):
        with pytest.raises(SkipopuError, match=f"{bad}.*{there}"):
            require_scope(Machine.load("mono"), bad)


def test_a_bench_without_waves_has_none_of_it() -> None:
    assert "$c(" not in bench_verilog(Machine.load("mono"))


@pytest.mark.rtl
def test_only_the_window_is_recorded(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "a name.vcd"
    followed = Followed()
    result = rtl.run(program, RUN, rtl.Options(waves=rtl.Window(path, 4, 5), optimise=0), followed)
    assert "RTL: simulation" in followed.said
    assert len(result.tokens) == RUN.max_new
    whole = path.read_text()
    times = [int(line[1:]) for line in whole.splitlines() if line.startswith("#")]
    assert "dispatch" in whole
    recorded = (times[-1] - times[0]) // 10_000  # 10 ns clock, 1 ps resolution
    assert 500 < recorded < result.counters["CYCLES"] / 2
    # One unit of it
    unit = rtl.Window(path, 4, 5, scope="overlay.dispatch", depth=1)
    again = rtl.run(program, RUN, rtl.Options(waves=unit, optimise=0))
    assert again.tokens == result.tokens
    assert again.counters == result.counters
    scopes = re.findall(r"\$scope module (\S+) \$end", path.read_text())
    assert "dispatch" in scopes
    assert path.stat().st_size < len(whole) / 4
    # What comes to nothing
    with pytest.raises(SkipopuError, match="not reached"):
        rtl.run(program, RUN, rtl.Options(waves=rtl.Window(path, 100_000, 100_001, instructions=True), optimise=0))
    with pytest.raises(SkipopuError, match="MB"):
        rtl.run(program, RUN, rtl.Options(waves=rtl.Window(path, 0, 5, limit=1000), optimise=0))
