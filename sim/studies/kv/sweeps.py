"""Hit rate and bandwidth over contexts, sizes of the history buffer, and models."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from compiler.frontend.shapes import outline
from sim.routing import independent
from sim.studies.kv.setting import CONTEXTS, KEYS, NEW, PROMPT, SEED, SKIP, capacity
from sim.studies.kv.traffic import Traffic, cell, traffic
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.report import Cell, Report, Table
from skipopu.shapes import SHAPES

SKIPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
CAPACITIES = (0, 256, 512, 1024, 2048, 4096, 8192)
STRIDES = {1: "every layer", 2: "every second"}


@dataclass(frozen=True)
class Sweep:
    """Hit rate and bandwidth by (skip ratio, layers between attended ones), over contexts or capacities."""

    title: str
    label: str
    at: tuple[int, ...]
    rows: dict[tuple[float, int], list[Traffic]]


def sweeps(machine: Machine, model: ModelConfig) -> list[Sweep]:
    held = capacity(machine, model)
    longest = max(CONTEXTS)
    traces = {skip: independent(model.num_layers, longest, skip, skip, SEED)[:, 0] for skip in SKIPS}

    def at(skip: float, stride: int, context: int, kept: int) -> Traffic:
        return traffic(machine, model, traces[skip], (context - 1,), kept, stride)

    kinds = [(skip, stride) for stride in STRIDES for skip in SKIPS]
    over_context = {kind: [at(*kind, n, held) for n in CONTEXTS] for kind in kinds}
    over_capacity = {kind: [at(*kind, PROMPT + NEW, n) for n in CAPACITIES] for kind in kinds if kind[0] in (0.25, 0.3, 0.5)}
    return [
        Sweep(f"history buffer of {held} tokens, by context", "context", CONTEXTS, over_context),
        Sweep(f"context {PROMPT + NEW}, by tokens of the history buffer", "tokens kept", CAPACITIES, over_capacity),
    ]


def report(of: list[Sweep]) -> Report:
    tables = []
    for sweep in of:
        rows: list[list[Cell]] = []
        for (skip, stride), line in sweep.rows.items():
            cells: list[Cell] = [f"{skip:.0%}, {STRIDES[stride]}"]
            for n, part in zip(sweep.at, line, strict=True):
                context = str(n) if sweep.label == "context" else str(PROMPT + NEW)
                source = f"timing engine's formulas, {sweep.label} {n}, every {stride}. layer attended"
                cells.append(cell(part, source, KEYS | {"skip": skip, "context": context}))
            rows.append(cells)
        columns = ["skipped, attended layers", *(f"{sweep.label} {n}" for n in sweep.at)]
        tables.append(Table(f"Hit rate, GB/s: {sweep.title}", columns, rows))
    return Report(tables)


def heads_report(machines: Sequence[Machine]) -> Report:
    """The same by the model's heads, at the paper's skip ratio."""
    rows: list[list[Cell]] = []
    for machine, name in itertools.product(machines, SHAPES):
        model = outline(name).config
        some = independent(model.num_layers, max(CONTEXTS), SKIP, SKIP, SEED)[:, 0]
        cells: list[Cell] = [machine.name, f"{name}: {model.num_kv_heads} x {model.head_dim}, {model.queries_per_kv_head}"]
        for n in CONTEXTS:
            part = traffic(machine, model, some, (n - 1,), capacity(machine, model))
            keys = KEYS | {"model": name, "context": str(n), "target": machine.name}
            cells.append(cell(part, "timing engine's formulas", keys))
        rows.append(cells)
    columns = ["machine", "KV heads x head size, queries per KV head", *(f"context {n}" for n in CONTEXTS)]
    return Report([Table("Hit rate, GB/s by the model's heads, 25 % skipped", columns, rows)])
