"""Each step on the large machine, counted: exposed cycles, share of the peak, decoding, time to the first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.shapes import outline
from compiler.passes.schedule import Schedule
from compiler.pipeline import compile_checkpoint
from sim.estimate import prefill_products
from sim.studies.fusion.setting import (
    CONTEXT,
    DECODE_AT,
    DECODED,
    KEYS,
    PROMPTS,
    SHAPE,
    SKIP,
    STEPS,
    TARGET,
    Phase,
    count,
    phase,
    routing,
)
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.program.program import Program
from skipopu.report import Cell, Keys, Record, Report, Table, shown


@dataclass(frozen=True)
class Counted:
    """One step on the large machine: every module executed (prefill by prompt length, one decoded token), and a token at 25 % skip."""

    step: Schedule
    prefill: dict[int, Phase]
    decode: Phase
    decode_skipping: Phase


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


def share_of_peak(machine: Machine, shape: ModelConfig, tokens: int, cycles: int) -> float:
    """Products of a dense prefill over what the array could do: two per multiplier and cycle, attention's included."""
    return sum(prefill_products(shape, tokens)) / (2 * machine.ports * machine.weight_lanes * cycles)


def report(rows: Sequence[Counted], machine: Machine, shape: ModelConfig) -> Report:
    listed: list[Record] = []
    lines: list[list[Cell]] = []
    clock = machine.clock_mhz * 1e6
    for row in rows:
        source = f"schedule {row.step.name.lower()}, timing engine"

        def put(part: Phase, phase: str, context: str, skip: float, source: str = source) -> tuple[Record, Record]:
            keys: Keys = KEYS | {"phase": phase, "context": context, "skip": skip}
            both = [
                Record(name, value, "cycle", "simulated", source, **keys)
                for name, value in (("cycles", part.cycles), ("exposed_cycles", part.exposed))
            ]
            listed.extend(both)
            return both[0], both[1]

        prefill = {n: put(part, "prefill", f"{n}+0", 0.0) for n, part in row.prefill.items()}
        context = f"{DECODE_AT}+1"
        decode = [put(part, "decode", context, skip) for skip, part in ((0.0, row.decode), (SKIP, row.decode_skipping))]
        cells: list[Cell] = []
        for n, (cycles, part) in prefill.items():
            value = share_of_peak(machine, shape, n, row.prefill[n].cycles)
            keys: Keys = KEYS | {"phase": "prefill", "context": f"{n}+0"}
            share = Record("share_of_peak", value, "ratio", "derived", source, digits=".4f", **keys)
            listed.append(share)
            cells.append(shown(lambda part, of, share: f"{part / of:.1%}, {share:.1%}", part, cycles, share))
        for cycles, part in decode:
            cells.append(shown(lambda part, of: f"{part / of:.1%}, {clock / of:.1f} tok/s", part, cycles))
        lines.append([STEPS[row.step], *cells])
    columns = ["schedule", *(f"prefill {n}" for n in PROMPTS), "decode, dense", "decode, 25 % skip"]
    title = (
        f"{SHAPE} on {TARGET}: exposed share, then share of the peak (prefill, every module executed) or tokens per second"
        f" (decode at context {DECODE_AT})"
    )
    return Report([Table(title, columns, lines)], listed=listed)


def first_token_report(fused: Counted, machine: Machine, shape: ModelConfig) -> Report:
    """Of a dense prefill with all steps, at the target's assumed clock."""
    clock = f"assumed {machine.clock_mhz:g} MHz"
    source = f"schedule {fused.step.name.lower()}, timing engine, {clock}"
    seconds = {n: part.cycles / (machine.clock_mhz * 1e6) for n, part in fused.prefill.items()}
    times: list[Cell] = []
    for n, value in seconds.items():
        keys: Keys = KEYS | {"phase": "prefill", "context": f"{n}+0", "skip": 0.0}
        first = Record("time_to_first_token_s", value, "s", "simulated", source, digits=".4f", **keys)
        times.append(shown("{:.3f} s", first))
    flops = [f"{2 * sum(prefill_products(shape, n)) / seconds[n] / 1e12:.2f}" for n in seconds]
    columns = ["every step, every module executed", *(f"prompt {n}" for n in seconds)]
    rows = [["time to first token", *times], ["TFLOP/s", *flops]]
    return Report([Table(f"Prefill at an {clock}", columns, rows)])
