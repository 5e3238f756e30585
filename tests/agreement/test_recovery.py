"""After whatever ended a run, the next one on the same machine is right, without a reset from outside."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import hw.wiring.units
from compiler.pipeline import compile_checkpoint
from hw.emit import overlay_verilog
from sim.check import differing_bits, first_difference
from sim.functional import engine as functional
from sim.fuzz.choices import thresholds
from sim.result import Counted
from sim.rtl import engine as rtl
from sim.rtl.build import build, simulation_environment
from skipopu.isa import spec
from skipopu.isa.registers import (
    CONTROL_ABORT,
    CONTROL_START,
    STATUS_DONE,
    STATUS_ERROR,
    STATUS_OWED,
    STATUS_RUNNING,
    STATUS_SATURATED,
    Config,
    Error,
    counted,
)
from skipopu.isa.spec import Unit
from skipopu.machine.config import Machine
from skipopu.policy import ALWAYS, NEVER
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.records import pack_router_record
from tests.agreement.test_faults import find, rewritten
from tests.support import random_checkpoint, small_config

pytestmark = [pytest.mark.rtl, pytest.mark.timeout(600)]
WATCHDOG = 1 << 12  # cycles, longer than anything in these runs
LIMIT, DRAIN = 200_000, 400
RUN = Run((1, 2, 3, 4, 5), 2, check=True)


@dataclass(frozen=True)
class Step:
    """A run, and what happens in it.

    Attributes:
        after: cycles behind the start at which ``control`` is written, or the machine and its memory are reset.
        memory: settings of the memories while it runs.
        too_early: the host asks for another run at once when this one has ended, while memory still owes answers.
        first: the position that it is told to begin at.
    """

    program: Program
    after: int | None = None
    control: int = 0
    reset: bool = False
    memory: dict[str, int] = field(default_factory=dict)
    too_early: bool = False
    first: int = 0


@dataclass(frozen=True)
class Ended:
    """How: registers, those of the status a little later among them, and memory."""

    values: dict[str, int]
    result: Counted

    @property
    def error(self) -> Error:
        return Error(self.values["ERROR"])


class Bench:
    """Simulates steps on one machine."""

    def __init__(self, program: Program, verilog: str) -> None:
        self.program = program
        self.executable = build(program.machine, verilog=verilog)
        self.expected = functional.run(program, RUN)

    def run(self, directory: Path, steps: Sequence[Step]) -> list[Ended]:
        beat, ports = self.program.machine.beat_bytes, range(self.program.machine.ports)
        for name, program in {id(step.program): step.program for step in steps}.items():
            for port, image in enumerate(RUN.prepare(program)):
                rtl._write_image(directory / f"{name}-{port}.bin", image, beat)
        asked = []
        for step in steps:
            part = {name: getattr(step, name) for name in ("after", "control", "reset", "memory", "too_early")}
            registers = RUN.registers(step.program) | {"FIRST": step.first}
            asked.append(part | {"image": id(step.program), "registers": registers})
        settings = rtl.Instance(self.program)._settings()
        options = {"settings": settings, "steps": asked, "ports": len(ports), "limit": LIMIT, "drain": DRAIN}
        (directory / "bench.json").write_text(json.dumps(options))
        environment = simulation_environment() | {
            "SKIPOPU_BENCH": str(directory / "bench.json"),
            "COCOTB_TEST_MODULES": "tests.agreement.recovery_bench",
            "COCOTB_RESULTS_FILE": str(directory / "results.xml"),
        }
        with (directory / "log").open("w") as log:
            command = [str(self.executable), f"+IMAGE={directory}"]
            subprocess.run(command, cwd=directory, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)
        assert (directory / "result.json").exists(), (directory / "log").read_text()[-3000:]
        ended = []
        for number, values in enumerate(json.loads((directory / "result.json").read_text())):
            dumps = [rtl._read_dump(directory / f"result{number}-{port}.hex", beat) for port in ports]
            memory = [dump[: self.program.port_bytes] for dump in dumps]
            address = self.program.regions["tokens"].address + 4 * len(RUN.known)
            tokens = memory[0][address : address + 4 * values["GENERATED"]].view("<u4").tolist()
            trace = rtl._trace(self.program, memory[0])
            result = Counted(
                tokens=tokens, memory=memory, trace=trace, counters=counted(values), kv_entries=values["KV_ENTRIES"]
            )
            ended.append(Ended(values, result))
        return ended

    def require_right(self, ended: Ended) -> None:
        """What it computed is what the functional engine does, bit by bit."""
        assert ended.values["STATUS"] & ~STATUS_SATURATED == STATUS_DONE
        assert ended.error == Error.NONE
        assert ended.result.tokens == self.expected.tokens
        assert first_difference(self.program, self.expected.trace, ended.result.trace) is None
        assert differing_bits(self.program, self.expected, ended.result) == 0
        assert ended.result.kv_entries == self.expected.kv_entries


def compiled(target: str, history: int | None = None) -> Program:
    checkpoint, machine = random_checkpoint(config := small_config(), 1), Machine.load(target)
    if machine.masks:
        checkpoint = dataclasses.replace(checkpoint, masks=thresholds(config, seed=5, spread=200, fixed=0.1))
    return compile_checkpoint(checkpoint, machine, "reuse", context=24, history=history)


@pytest.fixture(scope="module", params=["tiny", "tiny-masks"])
def bench(request: pytest.FixtureRequest) -> Bench:
    program = compiled(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hw.wiring.units, "WATCHDOG_CYCLES", WATCHDOG)
        return Bench(program, overlay_verilog.__wrapped__(program.machine))


def failing(program: Program) -> dict[Error, Program]:
    """For every code that a program can bring, one that does."""

    def setting(register: Config, value: int) -> Program:
        index = next(
            k
            for k, word in enumerate(program.instructions)
            if word & 31 == spec.SET.opcode and spec.SET.decode(word)["register"] == register
        )
        return rewritten(program, index, spec.SET.encode({"register": register, "value": value}))

    matmul, _ = find(program, spec.MATMUL)
    embed, embedding = find(program, spec.EMBED)
    memory = [port.copy() for port in program.memory]
    record = pack_router_record((0.0, 0.0), ((NEVER, ALWAYS), (ALWAYS, ALWAYS)))
    memory[0][program.router_record[0] : program.router_record[0] + len(record)] = record
    chunk, _ = find(program, spec.CHUNK)
    giving = program
    for place, word in enumerate(
        (spec.LOOP.encode({"count": 40}), spec.MATMUL.encode({"push": 1 << Unit.ATTENTION}), spec.END.encode({}))
    ):
        giving = rewritten(giving, chunk + 1 + place, word)
    return {
        Error.ILLEGAL_INSTRUCTION: rewritten(program, matmul, 31),
        Error.TOKEN_OUT_OF_RANGE: setting(Config.VOCABULARY, 4),
        Error.CONTEXT_FULL: setting(Config.CONTEXT, 4),
        Error.KV_POOL_FULL: setting(Config.KV_SLOTS, 2),
        Error.AXI_READ: rewritten(program, embed, spec.EMBED.encode({**embedding, "address": (1 << 28) - 1})),
        Error.BUFFER_RANGE: rewritten(program, embed, spec.EMBED.encode({**embedding, "dst": 1 << 15})),
        Error.PROGRAM_RANGE: rewritten(program, len(program.instructions) - 1, spec.NEXT.encode({"target": 4000})),
        Error.CONFIGURATION: setting(Config.GROUP, 9),
        Error.KV_MISSING: dataclasses.replace(program, memory=memory),
        Error.DEPENDENCE: giving,
        # A product that takes a dependence token which nobody gives: nothing moves any more.
        Error.WATCHDOG: rewritten(program, matmul, spec.MATMUL.encode({"pop": 1 << Unit.ATTENTION})),
    }


def test_a_run_behind_every_error_of_a_program(bench: Bench, tmp_path: Path) -> None:
    """Also two errors, and two runs, without anything in between."""
    cases = failing(bench.program)
    steps = [Step(bench.program), Step(bench.program)]
    for damaged in cases.values():
        steps += [Step(damaged), Step(damaged), Step(bench.program)]
    first, second, *others = bench.run(tmp_path, steps)
    for ended in (first, second):
        bench.require_right(ended)
    assert first.result.counters == second.result.counters
    for code, damaged, again, right in zip(cases, others[::3], others[1::3], others[2::3], strict=True):
        assert damaged.error == again.error == code
        assert damaged.values["ERROR_PC"] == again.values["ERROR_PC"]
        assert damaged.values["STATUS"] & ~STATUS_SATURATED == damaged.values["LATER"] & ~STATUS_SATURATED == STATUS_ERROR
        bench.require_right(right)
        assert right.result.counters == first.result.counters, "a start behind an error is as fast as any"


def times_of(cycles: int) -> list[int]:
    """Of a run of ``cycles``: while its program is loaded, at its last instruction, and between, in the middle of every unit's work."""
    source = random.Random(1)
    last = cycles - 30  # later ones may find the run ended
    return [1, 5, 30, *sorted(source.randrange(1, last) for _ in range(25)), last]


def test_a_run_behind_an_abort_at_any_time(bench: Bench, tmp_path: Path) -> None:
    """What was done by then shows where each unit was."""
    cycles = bench.run(tmp_path, [Step(bench.program)])[0].values["CYCLES"]
    steps = [step for time in times_of(cycles) for step in (Step(bench.program, time, CONTROL_ABORT), Step(bench.program))]
    results = bench.run(tmp_path, steps)
    for aborted, right in zip(results[::2], results[1::2], strict=True):
        assert aborted.error == Error.ABORTED
        assert aborted.values["STATUS"] & ~STATUS_SATURATED == STATUS_ERROR
        assert aborted.values["CYCLES"] < cycles
        assert aborted.values["ERROR_PC"] <= len(bench.program.instructions)
        bench.require_right(right)
    for unit in ("ARRAY_BUSY", "EPILOGUE_BUSY", "ATTENTION_BUSY", "VECTOR_BUSY", "ALIGN_BUSY", "READ_BEATS", "WRITE_BEATS"):
        done = {aborted.result.counters[unit] for aborted in results[::2]}
        assert len(done) > 5, f"{unit}: some of its work was done, and some was not"


@pytest.mark.parametrize("kind", ["bad_read", "bad_write"])
def test_a_run_behind_what_memory_does_wrong(bench: Bench, kind: str, tmp_path: Path) -> None:
    """At several bursts of both ports: SLVERR, DECERR, another's ID, no answer (which comes later), no last beat or nothing but last ones, an
    answer again; an address, or data, that are not taken for long."""
    reads = kind == "bad_read"
    code = Error.AXI_READ if reads else Error.AXI_WRITE
    silent = (3, 7) if reads else (3, 7, 8)
    every = range(8) if reads else (0, 1, 2, 6, *silent)
    bursts = (1, 2, 9, 40) if reads else (1, 2, 5)
    wrong = [(how, burst, port) for how in every for burst in bursts for port in range(2)]
    steps = []
    for how, burst, port in wrong:
        memory = {"bad_port": port, kind: burst, "bad_kind": how}
        steps += [Step(bench.program, memory=memory, too_early=how in silent), Step(bench.program)]
    results, seen = bench.run(tmp_path, steps), set()
    for (how, burst, port), damaged, right in zip(wrong, results[::2], results[1::2], strict=True):
        here = (how, burst, port)
        bench.require_right(right)
        if damaged.error == Error.NONE:  # there were fewer bursts, or the wrong one has one beat
            bench.require_right(damaged)
            continue
        seen.add((how, port))
        assert damaged.error == (Error.WATCHDOG if how in silent else code), here
        owed = STATUS_OWED if how in silent else 0
        assert damaged.values["STATUS"] & ~STATUS_SATURATED == STATUS_ERROR | owed, here
        assert damaged.values["LATER"] & ~STATUS_SATURATED == STATUS_ERROR, "the start was ignored, and answers have come"
    assert seen == {(how, port) for how in every for port in range(2)}


def test_a_bad_read_halts_at_the_instruction_that_asked(bench: Bench, tmp_path: Path) -> None:
    """SLVERR and DECERR in turn, of either port, of everything that is read: program, rows of tokens, weights, entries."""
    wrong = [(burst, port) for burst in (*range(1, 20), *range(43, 66, 3)) for port in range(2)]
    program = compiled(bench.program.machine.name, history=0)  # entries come from memory
    steps = [Step(program, memory={"bad_port": port, "bad_read": burst, "bad_kind": burst % 2}) for burst, port in wrong]
    whose: dict[int, set[str]] = {0: set(), 1: set()}
    for (burst, port), ended in zip(wrong, bench.run(tmp_path, steps), strict=True):
        assert ended.error == Error.AXI_READ, (burst, port)
        found = spec.instruction_of(program.instructions[ended.values["ERROR_PC"]])
        assert found is not None
        whose[port].add(found.name if ended.values["RETIRED"] else "program")
    assert whose[0] >= {"program", "EMBED", "MATMUL", "ATTEND"}
    assert whose[1] >= {"EMBED", "MATMUL", "ATTEND"}


def test_a_start_in_the_middle_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    alone, *others = bench.run(
        tmp_path, [Step(bench.program), *(Step(bench.program, time, CONTROL_START) for time in (3, 400, 3000))]
    )
    for ended in others:
        bench.require_right(ended)
        assert ended.result.counters == alone.result.counters


def test_a_run_begins_at_no_position_that_was_not_reached(bench: Bench, tmp_path: Path) -> None:
    """Behind a reset, an error and a run; behind each refusal one from position 0."""
    reached = len(RUN.known) + 1
    wrong = Step(failing(bench.program)[Error.CONTEXT_FULL])
    steps = [Step(bench.program, first=1), Step(bench.program), Step(bench.program, first=reached + 1)]
    steps += [wrong, Step(bench.program, first=1), Step(bench.program)]
    refused, right, beyond, failed, behind, last = bench.run(tmp_path, steps)
    for each in (refused, beyond, behind):
        assert (each.error, each.values["ERROR_PC"], each.values["RETIRED"]) == (Error.CONFIGURATION, 0, 0)
    assert failed.error == Error.CONTEXT_FULL
    bench.require_right(right)
    bench.require_right(last)


def test_a_run_behind_a_reset_in_the_middle(bench: Bench, tmp_path: Path) -> None:
    """At the times of aborts. Of machine and memory; a reset of the machine alone would leave answers that it no longer knows of."""
    cycles = bench.run(tmp_path, [Step(bench.program)])[0].values["CYCLES"]
    steps = [step for time in times_of(cycles) for step in (Step(bench.program, time, reset=True), Step(bench.program))]
    results = bench.run(tmp_path, steps)
    for cut, right in zip(results[::2], results[1::2], strict=True):
        assert not cut.values["STATUS"] & (STATUS_RUNNING | STATUS_ERROR | STATUS_DONE | STATUS_OWED)
        bench.require_right(right)
