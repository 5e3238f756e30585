"""Synthesis is kept by what a unit is, whatever the design around it numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from hw import synthesis
from hw.synthesis import Design

UNIT = """module unit(\\port$7$3 , \\port$12$0 , z);
  input \\port$7$3 ;
  input \\port$12$0 ;
  output z;
  assign z = \\port$7$3  & \\port$12$0 ;
endmodule
"""


@pytest.mark.synth
def test_a_port_keeps_its_number_and_the_unit_its_netlist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPOPU_CACHE", str(tmp_path))
    assert set(Design(UNIT).netlist("unit", "ultrascale+").inputs) == {"port$7$3", "port$12$0"}
    monkeypatch.setattr(synthesis, "run_tool", lambda *arguments: pytest.fail("it is synthesised again"))
    moved = Design(UNIT.replace("port$7$", "port$107$").replace("port$12$", "port$7$"))
    assert set(moved.netlist("unit", "ultrascale+").inputs) == {"port$107$3", "port$7$0"}
