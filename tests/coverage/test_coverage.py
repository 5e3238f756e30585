"""Reading of counts, what is covered in Verilog, holes and their rules; and a machine's run that counts."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from skipopu.errors import SkipopuError
from tests.coverage import __main__ as command
from tests.coverage.holes import Hole, Score, measure, merged
from tests.coverage.instrument import instrumented
from tests.coverage.page import PAGE, cell, markdown
from tests.coverage.points import HEAD, Point, Reader, records
from tests.coverage.rules import RULES, Rule, explanation
from tests.coverage.suite import ROOT, SUITE, WHERE, counted
from tests.coverage.units import units_of
from tests.coverage.verilog import blocks, branches, machine

VERILOG = r"""module \overlay.unit$7 (rst, go, clk, out);
  wire \$1 ;
  reg [1:0] \$2 ;
  output out;
  wire out;
  input go;
  wire go;
  input clk;
  wire clk;
  reg [1:0] fsm_state = 2'h0;
  reg [7:0] memory [3:0];
  assign \$1  = go & out;
  assign out = go ? fsm_state : 2'h3;
  always @(posedge clk)
    fsm_state <= \$2 ;
  always @* begin
    \$2  = fsm_state;
    casez (fsm_state)
      2'h0:
          if (\$1 ) begin
            \$2  = 2'h1;
          end else begin
            \$2  = 2'h2;
          end
      2'h1, 2'h2:
          /* empty */;
      2'h1:
          \$2  = 2'h0;
    endcase
    if (rst) begin
      \$2  = 2'h0;
    end
  end
endmodule
"""


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def record(count: int, **fields: object) -> str:
    return "C '" + "".join(f"\x01{name}\x02{value}" for name, value in fields.items()) + f"' {count}\n"


def test_branches_are_told_by_their_conditions() -> None:
    (block,) = blocks(VERILOG)
    assert (block.module, block.unit) == ("overlay.unit$7", "overlay.unit")
    assert block.kept == {"fsm_state": "fsm_state", "out": "out"}
    found = branches(block)
    assert set(found.values()) == {
        "go ?",
        "go :",
        "fsm_state = 0",
        "fsm_state = 0 & (go & out)",
        "fsm_state = 0 & !((go & out))",
        "fsm_state = 1, 2",
        "fsm_state = 1",
    }
    assert found[line_of(VERILOG, "if (\\$1 )"), "else"] == "fsm_state = 0 & !((go & out))"


def test_states_and_their_changes() -> None:
    found = machine(blocks(VERILOG)[0])
    assert found is not None
    assert found.states == (0, 1, 2)
    assert found.changes == ((0, 1), (0, 2), (1, 0))


def test_what_was_counted_is_told_by_unit() -> None:
    text = instrumented(VERILOG)
    here = {"f": "overlay.v", "page": "v_branch/overlay.unit$7"}
    toggle = {**here, "t": "toggle", "l": 5, "page": "v_toggle/overlay.unit$7"}
    lines = [
        f"{HEAD}\n",
        record(3, **here, l=line_of(text, "if (\\$1 )"), t="branch", o="if"),
        record(0, **here, l=line_of(text, "// coverage: 0 to 2"), t="branch", o="if"),
        record(8, **here, l=line_of(text, "// coverage: 0 to 2"), t="branch", o="else"),
        record(1, **here, l=line_of(text, "// coverage: 1\n".strip()), t="line", o="if"),
        record(2, **toggle, o="fsm_state[1]:0->1"),
        record(5, **toggle, o="__0242[1]:1->0"),
        record(4, **toggle, o="out:1->0"),
    ]
    assert Reader(text).read(lines) == {
        Point("overlay.unit", "branch", "fsm_state = 0 & (go & out)"): 3,
        Point("overlay.unit", "change", "0 to 2"): 0,
        Point("overlay.unit", "state", "1"): 1,
        Point("overlay.unit", "toggle", "fsm_state", 1, "0->1"): 2,
        Point("overlay.unit", "toggle", "out", 0, "1->0"): 4,
    }


@pytest.mark.parametrize(("text", "why"), [(["# other\n"], "begins with '# other'"), ([HEAD, "C what\n"], "has the line")])
def test_what_is_no_coverage_is_refused(text: list[str], why: str) -> None:
    with pytest.raises(SkipopuError, match=why):
        list(records(text))


def test_holes_are_what_no_machine_reached() -> None:
    bits = {
        Point("overlay.a", "toggle", "count", bit, edge): int(bit < 2) for bit in (0, 1, 2, 3, 5) for edge in ("0->1", "1->0")
    }
    bits[Point("overlay.a", "toggle", "count", 5, "1->0")] = 1  # from its start value
    seen = {**bits, Point("overlay.a", "branch", "go"): 0, Point("overlay.fifo", "branch", "go"): 0}
    scores, holes = measure(merged(seen, {"overlay.a": "control/a.py A"}))
    assert holes == [Hole("control/a.py A", "branch", "go"), Hole("control/a.py A", "toggle", "count", (2, 3))]
    assert [hole.text for hole in holes] == ["go", "count[3:2]"]
    assert scores == {"control/a.py A": Score(Counter(toggle=3), Counter(toggle=5, branch=1))}
    assert cell(scores["control/a.py A"], "toggle") == "3/5 60 %"
    assert "- branch `go`" in markdown(scores, holes)


def test_a_rule_is_about_all_of_a_hole() -> None:
    rule = Rule("because", "A|B", "toggle", r"count_\d+", 4, 7)
    hole = Hole("control/a.py A", "toggle", "count_1", (4, 5))
    assert rule.explains(hole)
    for other in (
        replace(hole, unit="control/c.py C"),
        replace(hole, kind="branch"),
        replace(hole, name="counts"),
        replace(hole, bits=(3, 4)),
        replace(hole, bits=(7, 8)),
    ):
        assert not rule.explains(other)
    assert explanation(Hole("pe/a.py Other", "branch", "unheard of")) is None


def test_the_page_has_every_reason() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert [rule.why for rule in RULES if rule.why not in page] == [], f"run `{command.SOURCE} -o {PAGE}`"
    assert all(f"`{test}`" in page for tests in SUITE.values() for test in tests)


def test_a_page_of_one_group_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--only", "mono", "-o", str(tmp_path / "page.md")]) == 2
    assert "--only is not accepted with it" in capsys.readouterr().err


@pytest.mark.rtl
def test_every_test_is_collected() -> None:
    names = [f"{WHERE}{test}" for tests in SUITE.values() for test in tests]
    options = ["-p", "no:cacheprovider", "-q", "--collect-only", "-m", ""]
    run = subprocess.run([sys.executable, "-m", "pytest", *options, *names], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]


@pytest.mark.rtl
@pytest.mark.timeout(900)
def test_a_run_reaches_most_of_what_orders_instructions() -> None:
    seen = counted("mono", (f"{WHERE}rtl.py::test_random_models[mono-0]",))
    scores, holes = measure(merged(seen, units_of("mono")))
    for unit in ("control/dispatch.py Dispatcher", "kv/write.py KvWriteUnit", "pe/sequencer.py Sequencer"):
        assert scores[unit].reached["branch"] > scores[unit].every["branch"] / 2
        assert scores[unit].reached["toggle"] > 0
    assert scores["kv/write.py KvWriteUnit"].reached["state"] > 4
    assert any(explanation(hole) is not None for hole in holes)
