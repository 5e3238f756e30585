"""Runs cases: refused with one sentence, or functional engine and RTL equal in everything that they share."""

from __future__ import annotations

import dataclasses
import shutil
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.shapes import random_checkpoint
from compiler.passes.schedule import Schedule
from compiler.pipeline import compile_checkpoint
from hw.emit import overlay_verilog
from sim.check import differing_bits, first_difference
from sim.functional import engine as functional
from sim.fuzz.case import Case
from sim.fuzz.choices import thresholds
from sim.masks import Masks
from sim.result import Computed, Counted, Routed
from sim.routing import independent
from sim.rtl import engine as rtl
from sim.rtl.build import build
from sim.session import Session
from sim.timing import engine as timing
from sim.timing.masks import Recorded
from skipopu.errors import MachineHalt, SkipopuError
from skipopu.machine.config import Machine
from skipopu.machine.memory import MemoryTiming
from skipopu.model_config import ModelConfig
from skipopu.program.program import Program
from skipopu.program.run import Run

BUILT_FOR = 8  # programs of a case for which optimised C++ pays; fewer are built more than they are simulated
LONGEST = 400_000  # cycles of a run, as the timing engine counts them
SENTENCE = 600  # characters of a refusal, at most
BOUND = 0.03  # of the timing engine's error
SHORT, SHORT_BOUND = 10_000, 300  # cycles: of a short run, that it may be off
Line = dict[str, Any]  # of the log, as JSON


def compiled(machine: dict[str, Any], program: dict[str, Any]) -> tuple[Program, Run]:
    """What a case's description says, compiled, and its run.

    Raises:
        SkipopuError: a part of it is refused.
    """
    target = Machine.from_dict(dict(machine), "machine description")
    config = ModelConfig.from_dict(program["model"])
    checkpoint = random_checkpoint(config, **program["weights"])
    if program.get("masks"):
        checkpoint = replace(checkpoint, masks=thresholds(config, **program["masks"]))
    options = dict(program["compile"])
    level = Schedule(options.pop("level", Schedule.RUN_AHEAD))
    result = compile_checkpoint(checkpoint, target, **options, level=level)
    run = dict(program["run"])
    again = run.pop("again", None)
    known, after = tuple(run["prompt"]), run.get("after", 0)
    run["prompt"], run["after"] = known[: len(known) - after], known[len(known) - after :]
    routing: Literal["program", "always"] | dict[str, Any] | NDArray[np.bool_] = run["routing"]
    if isinstance(routing, dict):
        tokens = result.context if again else max(1, len(known) + run["max_new"])
        run["routing"] = independent(config.num_layers, tokens, routing["attn"], routing["ffn"], routing["seed"])
    checked = Run(**run)
    checked.validate(result)
    return result, checked


def following(session: Session, run: Run, again: dict[str, Any]) -> Run:
    """What runs behind ``run``: of its tokens ``kept`` ones, at most, then ``prompt``.

    What lies behind the first run's prompt may count as ``generated``, and all tokens that are computed be asked what follows (``predict``).
    """
    context = session.program.context
    new = min(again["max_new"], context - 1)
    said = tuple(again["prompt"][: context - new])
    known = (*session.ids[: min(again["kept"], context - new - len(said))], *said)
    cut = len(run.prompt) if again["generated"] else len(known)
    follows = session.follow(replace(run, prompt=known[:cut], after=known[cut:], max_new=new, predict_from=None))
    return replace(follows, predict_from=follows.first) if again["predict"] else follows


def attempt(given: Case, keep: bool = False, verilog: str | None = None, with_rtl: bool = True) -> list[Line]:
    """Runs a case's programs; one line for each, with ``outcome`` "agreed", "refused", "skipped" (it would take too long), or
    the kind of a fault.

    Kinds: "traceback" (an exception that is no refusal), "sentence" (a refusal of several lines), "halt", "hang", "rtl" (its build or the
    simulator failed), "difference" (the message says of what). When the description itself is refused there is one line. The
    build is deleted unless ``keep``; ``verilog`` replaces the generated overlay (tests alter it).
    """
    lines: list[Line] = []
    with _Hardware(verilog, int(len(given.programs) >= BUILT_FOR), keep) as hardware:
        for number, program in enumerate(given.programs):
            start = time.perf_counter()
            machine = given.machine | program.get("machine", {})
            line: Line = {"seed": given.seed, "long": given.long, "count": len(given.programs), "number": number}
            line |= {**program, "machine": machine}
            with np.errstate(all="ignore"):
                line |= _outcome(machine, program, hardware if with_rtl else None)
            lines.append(line | {"seconds": round(time.perf_counter() - start, 2)})
            if line["outcome"] == "refused" and line["stage"] == "machine":
                break
    return lines


class _Hardware:
    """A case's simulated machine: built and reset once, its programs run one behind the other."""

    def __init__(self, verilog: str | None, optimise: int, keep: bool) -> None:
        self.verilog, self.optimise, self.keep = verilog, optimise, keep
        self.instance: rtl.Instance | None = None
        self.executable: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.instance is None:
            return
        self.instance.close()
        if self.executable and not self.keep:
            directory = self.executable.parent
            shutil.rmtree(directory, ignore_errors=True)
            directory.with_name(f"{directory.name}.lock").unlink(missing_ok=True)

    def holding(self, made: Program, program: dict[str, Any], cycle_limit: int) -> rtl.Instance:
        """The machine with ``made`` in its memory, which misbehaves as ``program`` says.

        Raises:
            SkipopuError: it cannot be built.
        """
        verilog = self.verilog or _verilog(made.machine)
        if self.executable is None:
            self.executable = build(made.machine, verilog=verilog, optimise=self.optimise)
        options = rtl.Options(rtl.Memory(**program["memory"]), None, verilog, cycle_limit, optimise=self.optimise)
        if self.instance is None:
            self.instance = rtl.Instance(made, options)
        else:
            self.instance.load(made, options)
        return self.instance


def _verilog(machine: Machine) -> str:
    """The overlay, which is the same whatever memory is behind it."""
    plain = {f.name: f.default for f in dataclasses.fields(Machine) if f.name in ("clock_mhz", "memory_bytes", "trace_records")}
    return overlay_verilog(replace(machine, memory=MemoryTiming(), **plain))


def is_fault(line: Line) -> bool:
    return line["outcome"] not in ("agreed", "refused", "skipped")


def _outcome(machine: dict[str, Any], program: dict[str, Any], hardware: _Hardware | None) -> Line:
    stage = "machine"
    try:
        Machine.from_dict(dict(machine), "machine description")
        stage = "program"
        made, run = compiled(machine, program)
        stage, seen = "functional", Masks(made, made.context)
        session = Session(made, "functional", functional.Options(masks=seen.see if made.masks else None))
        try:
            expected = _computed(session, run)
        except MachineHalt as halt:
            return _halted(made, run, program, halt, hardware) if hardware else _refused(stage, str(halt))
        stage = "timing"
        predicted = timing.run(made, run, timing.Options(expected, channels=Recorded(made, seen.active))).counters
        stage, turns, problem, longest = "again", [(run, expected)], "", predicted["CYCLES"]
        behind: dict[str, int] = {}
        if again := program["run"].get("again"):
            follows, masks = following(session, run, again), Masks(made, made.context)
            whole = functional.run(made, replace(follows, first=0), functional.Options(masks=masks.see if made.masks else None))
            turns.append((follows, after := _computed(session, follows)))
            behind = timing.run(made, follows, timing.Options(whole, channels=Recorded(made, masks.active))).counters
            longest = max(longest, behind["CYCLES"])
            if (whole.tokens, whole.predicted) != (after.tokens, after.predicted):
                problem = f"tokens from position 0 on {whole.tokens}, from {follows.first} on {after.tokens}"
    except MachineHalt as halt:
        return {"outcome": "halt", "stage": stage, "message": str(halt)}
    except SkipopuError as error:
        return _refused(stage, str(error)) | ({"outcome": "difference"} if stage == "again" else {})  # the run before it fitted
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{'/'.join(where.filename.split('/')[-3:])}:{where.lineno}"
        return {"outcome": "traceback", "stage": stage, "message": f"{type(error).__name__} at {place}: {error}"}
    line: Line = {
        "outcome": "difference" if problem else "agreed",
        "stage": stage if problem else "rtl",
        "message": problem,
        "timing": predicted,
        "tokens": expected.tokens,
        "routing": [list(expected.routing.shape), np.packbits(expected.routing).tobytes().hex()],
        "first": turns[-1][0].first,
    }
    if len(turns) > 1:
        line["behind"] = {"timing": behind}
    if problem or hardware is None:
        return line
    if longest > LONGEST:
        return line | {"outcome": "skipped", "message": f"{longest} cycles; up to {LONGEST} are simulated"}
    limit = 20_000 + 4 * longest * 256 // (256 - program["memory"]["stall"])
    problems: list[str] = []
    try:
        instance = hardware.holding(made, program, limit)
        for k, (each, of_each) in enumerate(turns):
            found = instance.run(each)
            (line["behind"] if k else line)["rtl"] = found.counters
            problems += [f"{'the run behind it: ' * k}{problem}" for problem in differences(made, each, of_each, found)]
    except SkipopuError as error:
        kind = "hang" if "did not stop" in str(error) else "difference" if isinstance(error, MachineHalt) else "rtl"
        return line | {"outcome": kind, "message": str(error)}
    return line | ({"outcome": "difference", "message": "; ".join(problems)} if problems else {})


def _computed(session: Session, run: Run) -> Computed:
    """What the functional engine makes of a run, with memory as it is behind it."""
    result = session.run(run)
    assert isinstance(result, Computed)
    return replace(result, memory=[port.copy() for port in result.memory])


def _refused(stage: str, text: str) -> Line:
    outcome = "refused" if "\n" not in text and 0 < len(text) <= SENTENCE else "sentence"
    return {"outcome": outcome, "stage": stage, "message": text}


def _halted(made: Program, run: Run, program: dict[str, Any], halt: MachineHalt, hardware: _Hardware) -> Line:
    """A compiled program that halts is a fault of compiler or engine, whatever the RTL does: this says which."""
    line: Line = {"outcome": "difference", "stage": "rtl"}
    try:
        hardware.holding(made, program, 1_000_000).run(run)
    except MachineHalt as seen:
        if (seen.code, seen.pc) == (halt.code, halt.pc):
            return line | {"outcome": "halt", "message": str(halt)}
        return line | {"message": f"functional: {halt}; RTL: {seen}"}
    except SkipopuError as error:
        return line | {"outcome": "rtl", "message": f"functional: {halt}; RTL: {error}"}
    return line | {"message": f"functional: {halt}; the RTL does not halt"}


def differences(program: Program, run: Run, expected: Computed, seen: Counted) -> list[str]:
    """What differs between functional engine and RTL, a sentence each."""
    problems: list[str] = []
    if run.check and (difference := first_difference(program, expected.trace, seen.trace)) is not None:
        problems.append(f"first difference at {difference}")
    if seen.tokens != expected.tokens:
        problems.append(f"tokens: functional {expected.tokens}, RTL {seen.tokens}")
    if bits := differing_bits(program, expected, seen):
        problems.append(f"{bits} bits of memory differ")
    executed = expected.routing[..., run.first :].sum((0, 2))
    for name, ours, theirs in (
        ("KV entries", expected.kv_entries, seen.kv_entries),
        ("executed attention", int(executed[0]), seen.counters["EXECUTED_ATTENTION"]),
        ("executed FFN", int(executed[1]), seen.counters["EXECUTED_FFN"]),
        ("saturation", expected.saturated, seen.saturated),
    ):
        if ours != theirs:
            problems.append(f"{name}: functional {ours}, RTL {theirs}")
    return problems


def replay(line: Line) -> dict[str, int]:
    """Counters of the timing engine for a line of the log whose outcome is "agreed"; its own RTL counters are ``line["rtl"]``."""
    shape, bits = line["routing"]
    routing = np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8), count=int(np.prod(shape)))
    program, run = compiled(line["machine"], line)
    channels = None
    if program.masks:
        seen = Masks(program, len(run.known) + run.max_new)
        functional.run(program, run, functional.Options(masks=seen.see))
        channels = Recorded(program, seen.active)
    routed = Routed(tokens=line["tokens"], routing=routing.reshape(shape).astype(bool))
    return timing.run(program, run, timing.Options(routed, channels=channels)).counters


def cycles_of(line: Line) -> list[tuple[int, int]]:
    """By the timing engine and in RTL, of a line's run and of the one behind it, where they ran and memory behaved."""
    if "rtl" not in line or line["memory"]["stall"] or line["memory"]["reorder"]:
        return []
    return [(of["timing"]["CYCLES"], of["rtl"]["CYCLES"]) for of in (line, line.get("behind", {})) if "rtl" in of]


def within(timing: int, rtl: int) -> bool:
    """Whether the timing engine is off by no more than it may be: 3 %, or 300 cycles of a short run."""
    return abs(timing / rtl - 1) <= BOUND or (rtl < SHORT and abs(timing - rtl) <= SHORT_BOUND)
