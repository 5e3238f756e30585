"""The RTL engine: the generated Verilog under Verilator, the same memory image, the same results."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sim.engine import QUIET, Watch
from sim.result import Counted, Retired, logits_at
from sim.rtl.build import MEMORY_BYTES, build, build_icarus, icarus_command, simulation_environment
from sim.rtl.options import Memory as Memory
from sim.rtl.options import Options as Options
from sim.rtl.verilate import Say
from sim.rtl.window import Window as Window
from skipopu.errors import MachineHalt, ProgramError, SkipopuError
from skipopu.isa.registers import STATUS_ERROR, STATUS_OWED, STATUS_SATURATED, Error, counted, identity
from skipopu.program.program import Program
from skipopu.program.run import Run

name = "rtl"
CLOSING = 60  # seconds in which a simulation that nobody asks any more ends by itself


def _write_image(path: Path, data: NDArray[np.uint8], beat: int) -> None:
    """The memory model reads words highest byte first."""
    padded = np.zeros(-(-len(data) // beat) * beat, np.uint8)
    padded[: len(data)] = data
    path.write_bytes(np.ascontiguousarray(padded.reshape(-1, beat)[:, ::-1]).tobytes())


def _read_dump(path: Path, beat: int) -> NDArray[np.uint8]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("/", "@"))]
    words = np.frombuffer(bytes.fromhex("".join(line.zfill(2 * beat) for line in lines)), np.uint8)
    return np.ascontiguousarray(words.reshape(-1, beat)[:, ::-1]).reshape(-1)


class Instance:
    """One simulated machine with a program in its memory, which keeps what a run leaves for the next one.

    Another program of the same overlay may follow, without a reset (:meth:`load`).
    """

    def __init__(self, program: Program, options: Options | None = None) -> None:
        """Raises ProgramError when the image is larger than the simulated memory."""
        self.directory: tempfile.TemporaryDirectory[str] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.runs, self.busy = 0, False
        self.load(program, options)

    def load(self, program: Program, options: Options | None = None) -> None:
        """Puts ``program`` into the machine's memory; ``options`` may differ in memory and cycle limit from those it was built with.

        Raises:
            ProgramError: the image is larger than the simulated memory.
        """
        if (size := len(program.memory[0])) > MEMORY_BYTES:
            raise ProgramError(f"the image needs {size} bytes per port; the RTL simulation holds {MEMORY_BYTES}")
        self.program, self.options = program, options or Options()
        self._forget()

    def _forget(self) -> None:
        """Nothing of the program ran yet."""
        self.memory: list[NDArray[np.uint8]] = [port.copy() for port in self.program.memory]
        self.written, self.kept = False, 0

    @property
    def work(self) -> Path:
        """Where a simulation's files lie."""
        assert self.directory is not None
        return Path(self.directory.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the simulation; the next run has one of its own."""
        self._end(self.busy)

    def _end(self, at_once: bool) -> None:
        if self.process is not None:
            self.requests.close()
            if at_once:
                self.process.kill()
            try:
                self.process.wait(CLOSING)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process, self.runs = None, 0
        self._forget()
        if self.directory is not None:
            self.directory.cleanup()
            self.directory = None

    def run(self, run: Run, watch: Watch = QUIET) -> Counted:
        """Simulates a run; the machine counts what executes and does not list it. Ids of tokens are known at the end only.

        Raises:
            ProgramError: the run does not fit.
            MachineHalt: the machine stopped with an error code. The next run has to begin at position 0.
            SkipopuError: the build or the simulator failed, or the machine did not stop within ``options.cycle_limit``. The next run has a
                machine of its own.
        """
        run.validate(self.program)
        if self.process is not None and self.process.poll() is not None:
            self._end(at_once=True)
        run.require_kept(self.kept, "RTL engine's machine")
        self.busy = True
        try:
            result = self._run(run, watch)
        except MachineHalt:
            self.busy, self.kept = False, 0
            if self.values["STATUS"] & STATUS_OWED:
                self._end(at_once=True)
            raise
        except BaseException:
            self._end(at_once=True)
            raise
        self.busy, self.kept = False, run.processed(len(result.tokens))
        return result

    def _run(self, run: Run, watch: Watch) -> Counted:
        program, beat = self.program, self.program.machine.beat_bytes
        run.place(program, self.memory[0])
        if self.process is None:
            self._start(run, watch)
        for port in range(1 if self.written else len(self.memory)):
            _write_image(self.work / f"port{port}.bin", self.memory[port], beat)
        self.written = True
        number, self.runs = self.runs, self.runs + 1
        watch.say("RTL: simulation")
        start = time.perf_counter()
        request = {"settings": self._settings(), "registers": run.registers(program), "limit": self.options.cycle_limit}
        self.requests.write(json.dumps(request) + "\n")
        self.requests.flush()
        values = self._wait(number, watch)
        seconds = time.perf_counter() - start
        for port in range(1, len(self.memory)):
            (self.work / f"port{port}.bin").unlink(missing_ok=True)  # what the machine wrote there stays
        size = len(self.memory[0])
        self.memory = [_read_dump(self.work / f"port{port}.hex", beat)[:size] for port in range(len(self.memory))]
        address = program.regions["tokens"].address + 4 * len(run.known)
        tokens = self.memory[0][address : address + 4 * values["GENERATED"]].view("<u4").tolist()
        if values["STATUS"] & STATUS_ERROR:
            code = Error(values["ERROR"])
            pc = values["ERROR_PC"]
            raise MachineHalt(code, pc, f"instruction {pc}: the machine halted with {code.name}", tokens)
        return Counted(
            tokens=tokens,
            memory=[port.copy() for port in self.memory],
            trace=_trace(program, self.memory[0]) if run.check else [],
            counters=counted(values),
            saturated=bool(values["STATUS"] & STATUS_SATURATED),
            predicted=run.predicted(program, self.memory[0]),
            kv_entries=values["KV_ENTRIES"],
            seconds=seconds,
        )

    def logits(self, position: int) -> NDArray[np.float32]:
        """(vocab,) of a token that the last run computed.

        Raises:
            ProgramError: the program stores none.
        """
        return logits_at(self.program, self.memory[0], position)

    def _start(self, run: Run, watch: Watch) -> None:
        options, machine = self.options, self.program.machine
        waves = options.waves
        if waves is not None:
            if options.icarus:
                raise SkipopuError("waves are recorded under Verilator, not under Icarus Verilog")
            waves.check(self.program, run)

        def say(phase: str) -> None:
            watch.say(f"RTL: {phase}")

        executable = (
            build_icarus(machine)
            if options.icarus
            else build(machine, waves.path.suffix if waves else None, options.verilog, optimise=options.optimise, say=say)
        )
        self.directory = tempfile.TemporaryDirectory(prefix="skipopu-rtl-")
        work = self.work
        os.mkfifo(work / "requests")
        # Also open for reading, so that it opens before anybody reads.
        self.requests = os.fdopen(os.open(work / "requests", os.O_RDWR), "w")
        environment = simulation_environment() | {
            "SKIPOPU_REQUESTS": str(work / "requests"),
            "COCOTB_TEST_MODULES": "sim.rtl.bench",
            "COCOTB_RESULTS_FILE": str(work / "results.xml"),
        }
        simulator = icarus_command(executable, work) if options.icarus else [str(executable)]
        command = [*simulator, f"+IMAGE={work}"]
        if waves is not None:
            waves.path.unlink(missing_ok=True)
            command += waves.arguments()
        with (work / "log").open("w") as log:
            self.process = subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def _settings(self) -> dict[str, int]:
        """The bench's."""
        memory, waves, timing = self.options.memory or Memory(), self.options.waves, self.program.machine.memory
        return {
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
            "bad_kind": 0,
            "limit": len(self.memory[0]),
            "wave_from": waves.start if waves else 0,
            "wave_to": waves.stop if waves else 0,
            "wave_kind": int(waves.instructions) if waves else 0,
        }

    def _wait(self, number: int, watch: Watch) -> dict[str, int]:
        """Registers at the end of the run of that number."""
        work, program, seen = self.work, self.program, 0
        progress, outcome = work / f"progress{number}", work / f"result{number}.json"
        assert self.process is not None
        while not outcome.exists() and self.process.poll() is None:
            time.sleep(0.02)
            seen = _report(progress, seen, watch)
            _measure(self.options.waves, lambda phase: watch.say(f"RTL: {phase}"))
        _report(progress, seen, watch)
        if not outcome.exists():
            tail = (work / "log").read_text()[-2000:]
            raise SkipopuError(f"the RTL simulator stopped without a result:\n{tail}")
        result = json.loads(outcome.read_text())
        values: dict[str, int] = result["registers"]
        for register, known in (
            ("MACHINE", identity(program.machine.fingerprint)),
            ("NUMERICS", identity(program.machine.numerics_fingerprint(program.numerics))),
        ):
            if (value := result["identity"][register]) != known:
                raise ProgramError(f"the hardware's {register} register is {value:08x}; the program needs {known:08x}")
        self.values = values
        if not result["stopped"]:
            raise SkipopuError(
                f"the machine did not stop within {self.options.cycle_limit} cycles: {values['RETIRED']} instructions dispatched,"
                f" position {values['POSITION']}"
            )
        return values


def run(program: Program, run: Run, options: Options | None = None, watch: Watch = QUIET) -> Counted:
    """Simulates ``run`` on a machine of its own.

    Raises:
        ProgramError, MachineHalt, SkipopuError: see :meth:`Instance.run`.
    """
    run.require_kept(0, "RTL engine without a session")
    with Instance(program, options) as instance:
        result = instance.run(run, watch)
    if (waves := instance.options.waves) is not None and not waves.path.exists():
        raise SkipopuError(
            f"no waves were recorded: the window {waves.start}:{waves.stop} was not reached in {instance.values['RETIRED']} instructions"
            f" and {instance.values['POSITION']} positions"
        )
    return result


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


def _report(progress: Path, seen: int, watch: Watch) -> int:
    """Tells of the tokens that were generated since ``seen`` were."""
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
