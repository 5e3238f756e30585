"""A machine on one chip: which machines, and how the overlay's pins are connected."""

from __future__ import annotations

import re

import pytest

import hw.link.system
from hw.link.system import SYSTEM, System, system_verilog
from hw.memory.axi import Axi4, AxiLite
from skipopu.errors import ConfigError
from skipopu.link import BAUD
from skipopu.machine.config import Machine


def test_the_overlay_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pin of the overlay, and a line of two pins outside."""
    monkeypatch.setattr(hw.link.system, "overlay_verilog", lambda machine: "")
    text = system_verilog(Machine.load("ulx3s"), BAUD)
    top = text[text.index(f"module {SYSTEM}(") :]
    assert set(re.findall(r"^  (?:input|output) (\w+)", top[: top.index("endmodule")], re.MULTILINE)) == {
        "clk",
        "rst",
        "rx",
        "tx",
    }
    overlay = re.search(r"^  overlay \S+ \((.*?)^  \);", top, re.MULTILINE | re.DOTALL)
    assert overlay is not None
    names = {f"host_{name}" for name in AxiLite(9).members} | {f"port0_{name}" for name in Axi4(64).members}
    assert set(re.findall(r"\.(\w+)\(", overlay[1])) == names | {"clk", "rst"}


def test_one_port_with_a_size() -> None:
    with pytest.raises(ConfigError, match="machine tiny: 2 ports, memory_bytes 0; block RAM needs one port and its size"):
        System(Machine.load("tiny"), BAUD)
