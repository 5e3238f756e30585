"""Study ``fusion``: what each step of the fused dataflow saves, in RTL for a small machine and counted for a large one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.checkpoint import load
from compiler.frontend.shapes import outline
from compiler.passes.schedule import Schedule
from compiler.pipeline import compile_checkpoint
from sim.estimate import prefill_products
from sim.functional import engine as functional
from sim.profile import exposed
from sim.result import Routed
from sim.routing import independent
from sim.rtl import engine as rtl
from sim.timeline import Span, plot
from sim.timing import engine as timing
from skipopu.errors import SkipopuError
from skipopu.isa.program import Program, Run
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.report import Record

PROMPT = b"def read(self, size=-1):\n"
NEW_TOKENS = 16
SHAPE, TARGET = "llama-2-7b", "u280"
PROMPTS = (128, 256, 512, 1024)  # the paper's prompt lengths
DECODE_AT, DECODED = 640, 8  # mean context of [128 in, 1024 out]; tokens averaged
SKIP, SEED = 0.25, 0
CONTEXT = max(*PROMPTS, DECODE_AT + 1 + DECODED)
STEPS = {
    Schedule.UNFUSED: "unfused",
    Schedule.REDUCTIONS: "+ reductions separated",
    Schedule.EPILOGUES: "+ epilogues fused",
    Schedule.ATTENTION: "+ attention pipelined",
    Schedule.RUN_AHEAD: "+ weights run ahead",
}
PAPER_SPEED_UP = {"skip queries": 1.14, "reuse KV": 1.29, "fused dataflow": 1.40}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Phase:
    """Cycles of one phase of one run: all, exposed, with the array's multipliers at work."""

    cycles: int
    exposed: int
    array_busy: int


@dataclass(frozen=True)
class Simulated:
    """One step on the small machine."""

    step: Schedule
    rtl: Phase
    timing: Phase
    busy_equal: bool


@dataclass(frozen=True)
class Counted:
    """One step on the large machine: every module executed (prefill by prompt length, one decoded token), and a token at 25 % skip."""

    step: Schedule
    prefill: dict[int, Phase]
    decode: Phase
    decode_skipping: Phase


@dataclass(frozen=True)
class Study:
    simulated: list[Simulated]
    counted: list[Counted]
    attention: dict[str, dict[int, float]]  # speed-up of attention's modules over unfused, all executed; by prompt length
    target: Machine
    shape: ModelConfig


def phase(counters: dict[str, int], before: dict[str, int] | None = None, share: int = 1) -> Phase:
    """``counters`` less those of a run up to ``before``, per ``share``-th."""
    part = counters if before is None else {name: value - before[name] for name, value in counters.items()}
    return Phase(part["CYCLES"] // share, exposed(part) // share, part["ARRAY_BUSY"] // share)


def simulate(model: Path, say: Say) -> list[Simulated]:
    """The shipped model on ``tiny``, RTL beside the timing engine; bits are compared with the functional engine's."""
    checkpoint, machine = load(model, None), Machine.load("tiny")
    rows = []
    for step in Schedule:
        say(f"RTL of {machine.name}, {STEPS[step]}")
        program = compile_checkpoint(checkpoint, machine, level=step)
        run = Run(tuple(PROMPT), NEW_TOKENS)
        expected = functional.run(program, run)
        seen = rtl.run(program, run)
        if seen.tokens != expected.tokens:
            raise SkipopuError(f"{STEPS[step]}: RTL gives {seen.tokens}, the functional engine {expected.tokens}")
        predicted = timing.run(program, run, timing.Options(expected)).counters
        busy = [name for name in predicted if name.endswith("_BUSY")]
        equal = all(predicted[name] == seen.counters[name] for name in busy)
        rows.append(Simulated(step, phase(seen.counters), phase(predicted), equal))
    return rows


def routing(model: ModelConfig, tokens: int, attention: float, ffn: float) -> NDArray[np.bool_]:
    return independent(model.num_layers, tokens, attention, ffn, SEED)


def count(
    program: Program, executed: NDArray[np.bool_], prompt: int, new: int, spans: list[Span] | None = None
) -> dict[str, int]:
    """Counters of a run of ``prompt`` and ``new`` tokens under a routing trace."""
    trace = executed[:, :, : prompt + new]
    run = Run((0,) * prompt, new)
    return timing.run(program, run, timing.Options(Routed(tokens=[0] * new, routing=trace), spans)).counters


def decoded(program: Program, executed: NDArray[np.bool_]) -> Phase:
    """The mean of DECODED tokens at context DECODE_AT."""
    return phase(count(program, executed, DECODE_AT, 1 + DECODED), count(program, executed, DECODE_AT, 1), DECODED)


def count_step(step: Schedule) -> Counted:
    """One step on the large machine."""
    checkpoint = outline(SHAPE)
    every = routing(checkpoint.config, CONTEXT, 0, 0)
    skipping = routing(checkpoint.config, CONTEXT, SKIP, SKIP)
    program = compile_checkpoint(checkpoint, Machine.load(TARGET), context=CONTEXT, level=step)
    prefill = {n: phase(count(program, every, n, 0)) for n in PROMPTS}
    return Counted(step, prefill, decoded(program, every), decoded(program, skipping))


def study(model: Path, say: Say = lambda text: None) -> Study:
    """Runs everything; about two minutes, and a minute more when the RTL is not built yet."""
    machine, checkpoint = Machine.load(TARGET), outline(SHAPE)
    config = checkpoint.config
    simulated = simulate(model, say)
    counted = []
    for step in Schedule:
        say(f"{SHAPE} on {TARGET}, {STEPS[step]}")
        counted.append(count_step(step))
    # Attention's modules alone: feed-forward networks never execute.
    alone, skipped = routing(config, CONTEXT, 0, 1), routing(config, CONTEXT, SKIP, 1)
    variants = {
        "dense": ("dense", Schedule.UNFUSED, alone),
        "skip queries": ("dense", Schedule.UNFUSED, skipped),
        "reuse KV": ("reuse", Schedule.UNFUSED, skipped),
        "fused dataflow": ("reuse", Schedule.RUN_AHEAD, skipped),
    }
    cycles: dict[str, dict[int, int]] = {}
    for name, (kv, level, executed) in variants.items():
        say(f"attention alone, {name}")
        program = compile_checkpoint(checkpoint, machine, kv=kv, context=CONTEXT, level=level)
        cycles[name] = {n: count(program, executed, n, 0)["CYCLES"] for n in PROMPTS}
    attention = {
        name: {n: cycles["dense"][n] / value for n, value in by.items()} for name, by in cycles.items() if name != "dense"
    }
    return Study(simulated, counted, attention, machine, config)


def share_of_peak(study: Study, tokens: int, cycles: int) -> float:
    """Products of a dense prefill over what the array could do: two per multiplier and cycle, attention's included."""
    machine = study.target
    return sum(prefill_products(study.shape, tokens)) / (2 * machine.ports * machine.weight_lanes * cycles)


def simulated_table(study: Study) -> tuple[list[str], list[list[str]]]:
    header = ["schedule", "RTL cycles", "saved", "exposed", "timing engine", "busy cycles"]
    first = study.simulated[0].rtl.cycles
    rows = []
    for row in study.simulated:
        error = row.timing.cycles / row.rtl.cycles - 1
        rows.append(
            [
                STEPS[row.step],
                f"{row.rtl.cycles:,}",
                f"{1 - row.rtl.cycles / first:.1%}",
                f"{row.rtl.exposed / row.rtl.cycles:.1%}",
                f"{error:+.1%}",
                "equal" if row.busy_equal else "differ",
            ]
        )
    return header, rows


def counted_table(study: Study) -> tuple[list[str], list[list[str]]]:
    header = ["schedule", *(f"prefill {n}" for n in PROMPTS), "decode, dense", "decode, 25 % skip"]
    rows = []
    clock = study.target.clock_mhz * 1e6
    for row in study.counted:
        cells = [f"{p.exposed / p.cycles:.1%}, {share_of_peak(study, n, p.cycles):.1%}" for n, p in row.prefill.items()]
        cells += [f"{p.exposed / p.cycles:.1%}, {clock / p.cycles:.1f} tok/s" for p in (row.decode, row.decode_skipping)]
        rows.append([STEPS[row.step], *cells])
    return header, rows


def first_token_table(study: Study) -> tuple[list[str], list[list[str]]]:
    header = ["every step, every module executed", *(f"prompt {n}" for n in PROMPTS)]
    seconds = {n: first_token(study, n) for n in PROMPTS}
    flops = [f"{2 * sum(prefill_products(study.shape, n)) / seconds[n] / 1e12:.2f}" for n in PROMPTS]
    return header, [
        ["time to first token", *(f"{value:.3f} s" for value in seconds.values())],
        ["TFLOP/s", *flops],
    ]


def first_token(study: Study, tokens: int) -> float:
    """Seconds of a dense prefill with all steps, at the target's assumed clock."""
    return study.counted[-1].prefill[tokens].cycles / (study.target.clock_mhz * 1e6)


def attention_table(study: Study) -> tuple[list[str], list[list[str]]]:
    header = ["attention, 25 % skipped", *(f"prompt {n}" for n in PROMPTS), "paper"]
    rows = [
        [f"+ {name}", *(f"{by[n]:.2f}x" for n in PROMPTS), f"{PAPER_SPEED_UP[name]:.2f}x"]
        for name, by in study.attention.items()
    ]
    return header, rows


TABLES = (
    ("Shipped model on tiny: prompt of 25 bytes + 16 tokens", simulated_table),
    (
        f"{SHAPE} on {TARGET}: exposed share, then share of the peak (prefill, every module executed) or tokens per second"
        f" (decode at context {DECODE_AT})",
        counted_table,
    ),
    ("Prefill at an assumed 225 MHz", first_token_table),
    ("Prefill speed-up of attention's modules over unfused with every module executed", attention_table),
)


def records(study: Study, model: str) -> list[Record]:
    """Every figure of the tables."""
    result = []
    for row in study.simulated:
        for engine, part in (("rtl", row.rtl), ("timing", row.timing)):
            source = f"schedule {row.step.name.lower()}, {engine} counters"
            for name, value in (("cycles", part.cycles), ("exposed_cycles", part.exposed)):
                result.append(Record(name, value, "cycle", "simulated", source, engine=engine, target="tiny", model=model))
    for row in study.counted:
        source = f"schedule {row.step.name.lower()}, timing engine"
        keys = {"engine": "timing", "target": TARGET, "model": SHAPE}
        phases = [("prefill", f"{n}+0", 0.0, p) for n, p in row.prefill.items()]
        phases += [("decode", f"{DECODE_AT}+1", 0.0, row.decode), ("decode", f"{DECODE_AT}+1", SKIP, row.decode_skipping)]
        for name, context, skip, part in phases:
            more = {**keys, "phase": name, "context": context, "skip": skip}
            result.append(Record("cycles", part.cycles, "cycle", "simulated", source, **more))
            result.append(Record("exposed_cycles", part.exposed, "cycle", "simulated", source, **more))
        for n, part in row.prefill.items():
            share = round(share_of_peak(study, n, part.cycles), 4)
            result.append(Record("share_of_peak", share, "ratio", "derived", source, phase="prefill", context=f"{n}+0", **keys))
    for n in PROMPTS:
        keys = {"engine": "timing", "target": TARGET, "model": SHAPE, "phase": "prefill", "context": f"{n}+0"}
        source = "schedule run_ahead, timing engine, assumed 225 MHz"
        result.append(
            Record("time_to_first_token_s", round(first_token(study, n), 4), "s", "simulated", source, skip=0.0, **keys)
        )
    for name, by in study.attention.items():
        for n, value in by.items():
            keys = {"engine": "timing", "target": TARGET, "model": SHAPE, "phase": "prefill", "context": f"{n}+0"}
            result.append(
                Record(f"attention_speed_up, {name}", round(value, 3), "ratio", "derived", "timing engine", skip=SKIP, **keys)
            )
        result.append(
            Record(
                f"attention_speed_up, {name}", PAPER_SPEED_UP[name], "ratio", "published", "arXiv 2603.14785", phase="prefill"
            )
        )
    return result


def timelines(path: Path) -> None:
    """A layer of one decoded token and of a prefill chunk on the large machine, unfused and fused."""
    machine, checkpoint = Machine.load(TARGET), outline(SHAPE)
    every = routing(checkpoint.config, DECODE_AT + 4, 0, 0)
    panels = []
    for title, prompt, new in ((f"decode at context {DECODE_AT}", DECODE_AT, 2), ("prefill, last of 160 chunks", DECODE_AT, 0)):
        for step in (Schedule.UNFUSED, Schedule.RUN_AHEAD):
            program = compile_checkpoint(checkpoint, machine, context=DECODE_AT + 4, level=step)
            spans: list[Span] = []
            count(program, every, prompt, new, spans)
            last = max(span.position for span in spans)
            layer = [span for span in spans if span.position == last and span.layer == 1]
            name = "unfused" if step is Schedule.UNFUSED else "fused"
            panels.append((f"{title}, one layer of {SHAPE} on {TARGET}: {name}", layer))
    plot(path, panels)
