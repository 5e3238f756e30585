"""What skipping queries, reusing KV and the fused dataflow save of attention's modules alone, beside the paper's figures."""

from __future__ import annotations

from compiler.frontend.shapes import outline
from compiler.passes.schedule import Schedule
from compiler.pipeline import compile_checkpoint
from sim.baselines import data
from sim.studies.fusion.setting import CONTEXT, KEYS, PROMPTS, SHAPE, SKIP, Say, count, routing
from skipopu.machine.config import Machine
from skipopu.report import Cell, Keys, Record, Report, Table, shown


def speed_up(machine: Machine, say: Say) -> dict[str, dict[int, float]]:
    """Speed-up of attention's modules alone over unfused with all executed, by what is done and prompt length."""
    checkpoint = outline(SHAPE)
    # Feed-forward networks never execute.
    alone, skipped = (routing(checkpoint.config, CONTEXT, skip, 1) for skip in (0, SKIP))
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
    dense = cycles.pop("dense")
    return {name: {n: dense[n] / value for n, value in by.items()} for name, by in cycles.items()}


def report(found: dict[str, dict[int, float]]) -> Report:
    paper = data.fpgas().paper
    rows: list[list[Cell]] = []
    for name, by in found.items():
        what = f"attention_speed_up, {name}"
        cells: list[Cell] = [f"+ {name}"]
        for n, value in by.items():
            keys: Keys = KEYS | {"phase": "prefill", "context": f"{n}+0", "skip": SKIP}
            cells.append(shown("{:.2f}x", Record(what, value, "ratio", "derived", "timing engine", digits=".3f", **keys)))
        published = Record(what, paper.attention_speed_up[name], "ratio", "published", paper.source, phase="prefill")
        rows.append([*cells, shown("{:.2f}x", published)])
    title = "Prefill speed-up of attention's modules over unfused with every module executed"
    return Report([Table(title, ["attention, 25 % skipped", *(f"prompt {n}" for n in PROMPTS), "paper"], rows)])
