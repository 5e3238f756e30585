"""Hits under the routing of the shipped model's routers, and under random routing of the same ratios."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.checkpoint import load
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.routing import independent
from sim.studies.kv.setting import SEED, SMALL_TARGET
from sim.timing.history import valid_layers
from skipopu.machine.config import Machine
from skipopu.program.run import Run
from skipopu.report import Cell, Record, Report, Table, shown

TEXT = 320  # bytes of held-out text whose routing is recorded


@dataclass(frozen=True)
class Trace:
    """Hit rates of a decoded token's reads under some routing; ``skipped`` is the share of attention that it skips."""

    name: str
    skipped: float
    hit_rate: float


def hit_rate(executed: NDArray[np.bool_]) -> float:
    """Over all tokens as decoded ones, where they attend, the first layer left out; every token is kept."""
    valid = valid_layers(executed)
    hits = reads = 0
    for t in range(executed.shape[1]):
        attended = np.flatnonzero(executed[:, t])
        same = valid[attended[1:], : t + 1] == valid[attended[:-1], : t + 1]
        hits, reads = hits + int(same.sum()), reads + same.size
    return hits / reads


def traces(model: Path) -> list[Trace]:
    """The shipped model's routing of held-out text beside random routing."""
    checkpoint = load(model, mask_file=False)
    text = (model / "heldout.txt").read_bytes()[:TEXT]
    machine = Machine.load(SMALL_TARGET).with_chunk(64)
    program = compile_checkpoint(checkpoint, machine, context=TEXT)
    real = functional.run(program, Run(tuple(text), 0)).routing[:, 0]
    rng = np.random.default_rng(SEED)
    by_layer = rng.random(real.shape) < real.mean(1, keepdims=True)
    ratio = 1 - float(real[1:].mean())
    alike = independent(len(real), TEXT, ratio, 0, SEED)[:, 0]
    by_layer[0] = True
    rows = [("the model's routers", real), ("random, each layer's own ratio", by_layer), ("random, one ratio", alike)]
    return [Trace(name, 1 - float(x[1:].mean()), hit_rate(x)) for name, x in rows]


def report(of: list[Trace], model: str) -> Report:
    rows: list[list[Cell]] = []
    for trace in of:
        source, skip = f"{trace.name}, {TEXT} bytes of held-out text", round(trace.skipped, 4)
        hits = Record("kv_hit_rate", trace.hit_rate, "ratio", "simulated", source, model=model, skip=skip, digits=".4f")
        rows.append([trace.name, f"{trace.skipped:.1%}", shown("{:.1%}", hits)])
    title = "Learned and random routing of the shipped model: hits of an unlimited history buffer"
    return Report([Table(title, ["routing", "attention skipped", "hits"], rows)])
