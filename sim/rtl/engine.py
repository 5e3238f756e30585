"""The RTL engine: the generated Verilog under Verilator, the same memory image, the same results."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.engine import OnToken, Result, Retired
from sim.rtl.build import MEMORY_BYTES, TOP, WAVES, build, build_icarus, icarus_command, require_scope, simulation_environment
from sim.rtl.verilate import OPTIMISE, Say, silent
from skipopu.errors import MachineHalt, ProgramError, SkipopuError
from skipopu.isa.program import Program, Run
from skipopu.isa.registers import STATUS_ERROR, STATUS_SATURATED, Error, counted
from skipopu.numerics.profile import fingerprint


@dataclass(frozen=True)
class Window:
    """Cycles to record as waves: positions (tokens) or dispatched instructions from ``start`` up to ``stop``.

    Attributes:
        path: .vcd or .fst.
        scope: the unit below which signals are recorded.
        depth: levels below ``scope``; 0 for all.
        limit: bytes of the file at which the run is ended.

    Raises:
        ProgramError: an empty or negative window, or a file that cannot be written.
    """

    path: Path
    start: int
    stop: int
    instructions: bool = False
    scope: str = TOP
    depth: int = 0
    limit: int = 4 << 30

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop < 1 << 32:
            raise ProgramError(f"the window of waves is {self.start}:{self.stop}; accepted: A:B with 0 <= A < B")
        if self.depth < 0 or self.limit <= 0:
            raise ProgramError(f"waves of depth {self.depth} and at most {self.limit} bytes; accepted: 0 or more, more than 0")
        if self.path.suffix not in WAVES:
            raise ProgramError(f"waves go to {self.path}; accepted suffixes: {', '.join(WAVES)}")
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise ProgramError(
                f"waves cannot go to {self.path}: {'it' if self.path.is_dir() else self.path.parent} is "
                + ("a directory" if self.path.is_dir() else "no directory")
            )

    def check(self, program: Program, options: Run) -> None:
        """Raises ProgramError for what is known to fail before the run: a window behind its end, a scope that is not there."""
        end = len(options.prompt) + max(options.max_new, 1) - 1
        if not self.instructions and self.start >= end:
            raise ProgramError(f"the window of waves is {self.start}:{self.stop}; the run has the positions 0 to {end - 1}")
        if self.scope != TOP:
            require_scope(program.machine, self.scope)

    def arguments(self) -> list[str]:
        """Of the simulation's command line."""
        # Everything is depth 0 for Verilator, whatever the scope.
        whole = self.scope == TOP and not self.depth
        scope = self.scope.replace("overlay", f"{TOP}.dut", 1)
        return [f"+WAVES={self.path.resolve()}", f"+SCOPE={scope}", f"+DEPTH={0 if whole else self.depth or 1000}"]


@dataclass(frozen=True)
class Memory:
    """How the simulated memories behave.

    Attributes:
        latency, beats_per_256_cycles: None takes the machine's own timing.
        stall: chance of 256 that a channel holds back in a cycle.
        reorder: responses of different IDs overtake and interleave.
        bad_port, bad_read, bad_write: which port answers which read or write burst (from 1; 0 none) with an error.
    """

    latency: int | None = None
    beats_per_256_cycles: int | None = None
    stall: int = 0
    seed: int = 1
    reorder: bool = False
    bad_port: int = 0
    bad_read: int = 0
    bad_write: int = 0


def _write_image(path: Path, data: NDArray[np.uint8], beat: int) -> None:
    """The memory model reads words highest byte first."""
    padded = np.zeros(-(-len(data) // beat) * beat, np.uint8)
    padded[: len(data)] = data
    path.write_bytes(np.ascontiguousarray(padded.reshape(-1, beat)[:, ::-1]).tobytes())


def _read_dump(path: Path, beat: int) -> NDArray[np.uint8]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("/", "@"))]
    words = np.frombuffer(bytes.fromhex("".join(line.zfill(2 * beat) for line in lines)), np.uint8)
    return np.ascontiguousarray(words.reshape(-1, beat)[:, ::-1]).reshape(-1)


def run(
    program: Program,
    options: Run,
    on_token: OnToken | None = None,
    memory: Memory | None = None,
    waves: Window | None = None,
    verilog: str | None = None,
    cycle_limit: int = 1 << 31,
    icarus: bool = False,
    optimise: int = OPTIMISE,
    say: Say = silent,
) -> Result:
    """Simulates ``program``; see :class:`skipopu.isa.program.Run` and :class:`sim.engine.Result`.

    ``waves`` are recorded on the way; a window that is not reached is an error.
    ``verilog`` replaces the generated overlay (tests alter it); ``icarus`` takes Icarus Verilog and the generated overlay instead of
    Verilator. ``optimise`` and ``say`` are those of :func:`sim.rtl.build.build`. Routing is read back from the trace ring's counters
    only: ``Result.routing`` holds zeros unless the caller fills it.

    Raises:
        ProgramError: the run does not fit, or the image is larger than the simulated memory.
        MachineHalt: the machine stopped with an error code.
        SkipopuError: the build or the simulator failed, or the machine did not stop within ``cycle_limit``.
    """
    if waves is not None:
        if icarus:
            raise SkipopuError("waves are recorded under Verilator, not under Icarus Verilog")
        waves.check(program, options)
    return _simulate(program, options, on_token, memory or Memory(), waves, verilog, cycle_limit, icarus, optimise, say)


def _simulate(
    program: Program,
    options: Run,
    on_token: OnToken | None,
    memory: Memory,
    waves: Window | None,
    verilog: str | None,
    cycle_limit: int,
    icarus: bool,
    optimise: int,
    say: Say,
) -> Result:
    machine = program.machine
    images = options.prepare(program)
    size = len(images[0])
    if size > MEMORY_BYTES:
        raise ProgramError(f"the image needs {size} bytes per port; the RTL simulation holds {MEMORY_BYTES}")
    executable = (
        build_icarus(machine)
        if icarus
        else build(machine, waves.path.suffix if waves else None, verilog, optimise=optimise, say=say)
    )
    timing = machine.memory
    settings = {
        "latency": timing.latency if memory.latency is None else memory.latency,
        "rate": timing.beats_per_256_cycles if memory.beats_per_256_cycles is None else memory.beats_per_256_cycles,
        **{
            name: getattr(timing, name)
            for name in ("refresh_interval", "refresh", "refresh_together", "turnaround", "issue", "outstanding", "channel")
        },
        "stall": memory.stall,
        "seed": memory.seed,
        "reorder": int(memory.reorder),
        "bad_port": memory.bad_port,
        "bad_read": memory.bad_read,
        "bad_write": memory.bad_write,
        "limit": size,
        "wave_from": waves.start if waves else 0,
        "wave_to": waves.stop if waves else 0,
        "wave_kind": int(waves.instructions) if waves else 0,
    }
    registers = options.registers(program)
    with tempfile.TemporaryDirectory(prefix="skipopu-rtl-") as name:
        work = Path(name)
        for port, data in enumerate(images):
            _write_image(work / f"port{port}.bin", data, machine.beat_bytes)
        bench = work / "bench.json"
        bench.write_text(json.dumps({"settings": settings, "registers": registers, "poll": 1000, "limit": cycle_limit}))
        environment = simulation_environment() | {
            "SKIPOPU_BENCH": str(bench),
            "COCOTB_TEST_MODULES": "sim.rtl.bench",
            "COCOTB_RESULTS_FILE": str(work / "results.xml"),
        }
        simulator = icarus_command(executable, work) if icarus else [str(executable)]
        command = [*simulator, f"+IMAGE={work}"]
        if waves is not None:
            waves.path.unlink(missing_ok=True)
            command += waves.arguments()
        say("simulation")
        start = time.perf_counter()
        with (work / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT)
            seen = 0
            try:
                while process.poll() is None:
                    time.sleep(0.1)
                    seen = _report(work, seen, on_token)
                    _watch(waves, say)
            finally:
                process.kill()
                process.wait()
        seconds = time.perf_counter() - start
        _report(work, seen, on_token)
        outcome = work / "result.json"
        if not outcome.exists():
            tail = (work / "log").read_text()[-2000:]
            raise SkipopuError(f"the RTL simulator stopped without a result:\n{tail}")
        result = json.loads(outcome.read_text())
        values: dict[str, int] = result["registers"]
        for register, known in (("MACHINE", machine.fingerprint), ("NUMERICS", fingerprint(program.numerics))):
            if result["identity"][register] != int(known[-8:], 16):
                raise ProgramError(
                    f"the hardware's {register} register is {result['identity'][register]:08x}; the program needs {known[-8:]}"
                )
        if not result["stopped"]:
            raise SkipopuError(
                f"the machine did not stop within {cycle_limit} cycles: {values['RETIRED']} instructions dispatched, position"
                f" {values['POSITION']}"
            )
        final = [_read_dump(work / f"port{port}.hex", machine.beat_bytes)[:size] for port in range(machine.ports)]
    if waves is not None and not waves.path.exists():
        raise SkipopuError(
            f"no waves were recorded: the window {waves.start}:{waves.stop} was not reached in {values['RETIRED']} instructions and"
            f" {values['POSITION']} positions"
        )
    address = program.regions["tokens"].address + 4 * len(options.prompt)
    tokens = final[0][address : address + 4 * values["GENERATED"]].view("<u4").tolist()
    if values["STATUS"] & STATUS_ERROR:
        code = Error(values["ERROR"])
        pc = values["ERROR_PC"]
        raise MachineHalt(code, pc, f"instruction {pc}: the machine halted with {code.name}", tokens)
    return Result(
        tokens=tokens,
        routing=np.zeros((program.model.num_layers, 2, values["POSITION"]), bool),
        memory=final,
        trace=_trace(program, final[0]) if options.check else [],
        counters=counted(values),
        saturated=bool(values["STATUS"] & STATUS_SATURATED),
        kv_entries=values["KV_ENTRIES"],
        seconds=seconds,
    )


def _watch(waves: Window | None, say: Say) -> None:
    """Tells how large the file is; ends the run above its limit."""
    if waves is None or not waves.path.exists():
        return
    size = waves.path.stat().st_size
    say(f"simulation, {size / 1e6:,.0f} MB of waves")
    if size > waves.limit:
        raise SkipopuError(
            f"{waves.path} has {size / 1e6:,.0f} MB, more than the {waves.limit / 1e6:,.0f} allowed: record a narrower window, one unit"
            " (--scope), or .fst"
        )


def _report(work: Path, seen: int, on_token: OnToken | None) -> int:
    """Streams progress; tokens themselves are known at the end only, so the callback gets -1 for each."""
    progress = work / "progress"
    if on_token is None or not progress.exists():
        return seen
    lines = progress.read_text().splitlines()
    count = int(lines[-1].split()[0]) if lines else 0
    for _ in range(seen, count):
        on_token(-1)
    return max(seen, count)


def _trace(program: Program, memory: NDArray[np.uint8]) -> list[Retired]:
    """Records of the ring in program order; where more were retired than it holds, of those that share a place the one that retired
    last."""
    ring = program.regions["ring"]
    records = memory[ring.address : ring.address + ring.size].view("<u4").reshape(-1, 4)
    order = np.argsort(records[:, 0], kind="stable")
    kept = records[order][records[order][:, 0] > 0]
    return [Retired(int(pc), int(signature), int(cycle), sequence=int(number) - 1) for number, pc, signature, cycle in kept]
