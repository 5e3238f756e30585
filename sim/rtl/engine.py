"""The RTL engine: the generated Verilog under Verilator, the same memory image, the same results."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.engine import QUIET, Watch
from sim.result import Counted, Retired
from sim.rtl.build import MEMORY_BYTES, build, build_icarus, icarus_command, simulation_environment
from sim.rtl.options import Memory as Memory
from sim.rtl.options import Options as Options
from sim.rtl.verilate import Say
from sim.rtl.window import Window as Window
from skipopu.errors import MachineHalt, ProgramError, SkipopuError
from skipopu.isa.registers import STATUS_ERROR, STATUS_SATURATED, Error, counted, identity
from skipopu.program.program import Program
from skipopu.program.run import Run

name = "rtl"


def _write_image(path: Path, data: NDArray[np.uint8], beat: int) -> None:
    """The memory model reads words highest byte first."""
    padded = np.zeros(-(-len(data) // beat) * beat, np.uint8)
    padded[: len(data)] = data
    path.write_bytes(np.ascontiguousarray(padded.reshape(-1, beat)[:, ::-1]).tobytes())


def _read_dump(path: Path, beat: int) -> NDArray[np.uint8]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("/", "@"))]
    words = np.frombuffer(bytes.fromhex("".join(line.zfill(2 * beat) for line in lines)), np.uint8)
    return np.ascontiguousarray(words.reshape(-1, beat)[:, ::-1]).reshape(-1)


def run(program: Program, run: Run, options: Options | None = None, watch: Watch = QUIET) -> Counted:
    """Simulates ``program``; the machine counts what executes and does not list it. Ids of tokens are known at the end only.

    Raises:
        ProgramError: the run does not fit, or the image is larger than the simulated memory.
        MachineHalt: the machine stopped with an error code.
        SkipopuError: the build or the simulator failed, or the machine did not stop within ``options.cycle_limit``.
    """
    options = options or Options()
    memory, waves = options.memory or Memory(), options.waves
    if waves is not None:
        if options.icarus:
            raise SkipopuError("waves are recorded under Verilator, not under Icarus Verilog")
        waves.check(program, run)

    def say(phase: str) -> None:
        watch.say(f"RTL: {phase}")

    machine = program.machine
    run.require_prompt_alone("RTL engine")
    images = run.prepare(program)
    size = len(images[0])
    if size > MEMORY_BYTES:
        raise ProgramError(f"the image needs {size} bytes per port; the RTL simulation holds {MEMORY_BYTES}")
    executable = (
        build_icarus(machine)
        if options.icarus
        else build(machine, waves.path.suffix if waves else None, options.verilog, optimise=options.optimise, say=say)
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
    registers = run.registers(program)
    with tempfile.TemporaryDirectory(prefix="skipopu-rtl-") as directory:
        work = Path(directory)
        for port, data in enumerate(images):
            _write_image(work / f"port{port}.bin", data, machine.beat_bytes)
        bench = work / "bench.json"
        bench.write_text(json.dumps({"settings": settings, "registers": registers, "poll": 1000, "limit": options.cycle_limit}))
        environment = simulation_environment() | {
            "SKIPOPU_BENCH": str(bench),
            "COCOTB_TEST_MODULES": "sim.rtl.bench",
            "COCOTB_RESULTS_FILE": str(work / "results.xml"),
        }
        simulator = icarus_command(executable, work) if options.icarus else [str(executable)]
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
                    seen = _report(work, seen, watch)
                    _measure(waves, say)
            finally:
                process.kill()
                process.wait()
        seconds = time.perf_counter() - start
        _report(work, seen, watch)
        outcome = work / "result.json"
        if not outcome.exists():
            tail = (work / "log").read_text()[-2000:]
            raise SkipopuError(f"the RTL simulator stopped without a result:\n{tail}")
        result = json.loads(outcome.read_text())
        values: dict[str, int] = result["registers"]
        for register, known in (
            ("MACHINE", identity(machine.fingerprint)),
            ("NUMERICS", identity(program.machine.numerics_fingerprint(program.numerics))),
        ):
            if (value := result["identity"][register]) != known:
                raise ProgramError(f"the hardware's {register} register is {value:08x}; the program needs {known:08x}")
        if not result["stopped"]:
            raise SkipopuError(
                f"the machine did not stop within {options.cycle_limit} cycles: {values['RETIRED']} instructions dispatched, position"
                f" {values['POSITION']}"
            )
        final = [_read_dump(work / f"port{port}.hex", machine.beat_bytes)[:size] for port in range(machine.ports)]
    if waves is not None and not waves.path.exists():
        raise SkipopuError(
            f"no waves were recorded: the window {waves.start}:{waves.stop} was not reached in {values['RETIRED']} instructions and"
            f" {values['POSITION']} positions"
        )
    address = program.regions["tokens"].address + 4 * len(run.prompt)
    tokens = final[0][address : address + 4 * values["GENERATED"]].view("<u4").tolist()
    if values["STATUS"] & STATUS_ERROR:
        code = Error(values["ERROR"])
        pc = values["ERROR_PC"]
        raise MachineHalt(code, pc, f"instruction {pc}: the machine halted with {code.name}", tokens)
    return Counted(
        tokens=tokens,
        memory=final,
        trace=_trace(program, final[0]) if run.check else [],
        counters=counted(values),
        saturated=bool(values["STATUS"] & STATUS_SATURATED),
        kv_entries=values["KV_ENTRIES"],
        seconds=seconds,
    )


def _measure(waves: Window | None, say: Say) -> None:
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


def _report(work: Path, seen: int, watch: Watch) -> int:
    """Tells of the tokens that were generated since ``seen`` were."""
    progress = work / "progress"
    if not progress.exists():
        return seen
    lines = progress.read_text().splitlines()
    count = int(lines[-1].split()[0]) if lines else 0
    for _ in range(seen, count):
        watch.token(None)
    return max(seen, count)


def _trace(program: Program, memory: NDArray[np.uint8]) -> list[Retired]:
    """Records of the ring in program order; where more were retired than it holds, of those that share a place the one that retired
    last."""
    ring = program.regions["ring"]
    records = memory[ring.address : ring.address + ring.size].view("<u4").reshape(-1, 4)
    order = np.argsort(records[:, 0], kind="stable")
    kept = records[order][records[order][:, 0] > 0]
    return [Retired(int(pc), int(signature), int(cycle), sequence=int(number) - 1) for number, pc, signature, cycle in kept]
