"""The paper's bandwidth points, each under every mapping of entries to ports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.baselines import data
from sim.routing import independent
from sim.studies.kv.setting import KEYS, NEW, PROMPT, SEED, SHAPE, SKIP, TARGET, capacity
from sim.studies.kv.traffic import MAPPINGS, Traffic, traffic
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.report import Cell, Record, Report, Table, shown

WINDOW = range(1016, 1032, 2)  # decoded positions around the history buffer's capacity
HERE = f"{WINDOW.start}-{WINDOW.stop - 1}"
PAPER = data.fpgas().paper


@dataclass(frozen=True)
class Point:
    """One of the paper's bandwidth points under every mapping: around the buffer's capacity, and over the whole run.

    ``nearest`` is the mapping that the paper's figure fits best, chosen after seeing both, and ``why`` what speaks for it.
    """

    name: str
    here: dict[str, Traffic]
    run: dict[str, Traffic]
    nearest: str | None
    why: str


def points(machine: Machine, model: ModelConfig) -> list[Point]:
    """The paper's five points, each under both mappings."""
    kept = capacity(machine, model)
    some = independent(model.num_layers, PROMPT + NEW, SKIP, SKIP, SEED)[:, 0]
    every = np.ones_like(some)
    whole = range(PROMPT, PROMPT + NEW, 16)

    def both(
        name: str, nearest: str | None, why: str, executed: NDArray[np.bool_] = some, stride: int = 1, kept: int = 0
    ) -> Point:
        def under(positions: Iterable[int]) -> dict[str, Traffic]:
            return {
                mapping: traffic(machine, model, executed, positions, kept, stride, ports_of)
                for mapping, ports_of in MAPPINGS.items()
            }

        return Point(name, under(WINDOW), under(whole), nearest, why)

    counter, token = MAPPINGS
    return [
        both("dense", None, "both mappings are the same: every token has an entry", every),
        Point("reuse, plain interleaving", {}, {}, None, "not reproduced, see below"),
        both(
            "reuse, token in one port",
            counter,
            "as the paper describes it: reused entries load ports unevenly, all wait for the fullest",
        ),
        both(
            "+ history buffer",
            token,
            "not what the paper describes: the counter's misses and hits together are uneven, so its buffer must gain otherwise",
            kept=kept,
        ),
        both(
            "+ history buffer, every second layer",
            counter,
            "as the paper describes it: few hits, so that the uneven ports show again",
            stride=2,
            kept=kept,
        ),
    ]


def records(point: Point) -> dict[tuple[str, str, str], Record]:
    """Figures by (mapping, context, while or whole), and the paper's by ("paper", "", "")."""
    name = f"kv_bandwidth, {point.name}"
    published = PAPER.kv_gb_s[point.name]
    found = {
        ("paper", "", ""): Record(name, published, "GB/s", "published", PAPER.source, phase="decode", system="SkipOPU"),
    }
    for context, parts in ((HERE, point.here), (f"{PROMPT}+{NEW}", point.run)):
        for mapping, part in parts.items():
            for what, value in (("while attention works", part.bandwidth), ("whole instructions", part.whole_bandwidth)):
                source = f"timing engine's formulas; {mapping}, {what}"
                found[mapping, context, what.split()[0]] = Record(
                    name, value, "GB/s", "simulated", source, digits=".1f", **(KEYS | {"context": context})
                )
    return found


def report(of: list[Point]) -> Report:
    columns = ["KV reads, GB/s, hits counted", "paper"]
    columns += [f"{mapping}, {what}" for mapping in MAPPINGS for what in (HERE, "whole", f"[{PROMPT}, {NEW}]")]
    columns += ["hits", "nearest, and why"]
    rows: list[list[Cell]] = []
    listed: list[Record] = []
    for point in of:
        found = records(point)
        listed += found.values()
        paper = PAPER.kv_gb_s[point.name]

        def off(value: float, paper: float = paper) -> str:
            return f"{value:.1f} ({value / paper - 1:+.1%})"

        cells: list[Cell] = [shown("{:.1f}", found["paper", "", ""])]
        for mapping in MAPPINGS:
            if point.here:
                cells += [shown(off, found[mapping, HERE, what]) for what in ("while", "whole")]
                cells.append(shown("{:.1f}", found[mapping, f"{PROMPT}+{NEW}", "while"]))
            else:
                cells += ["", "", ""]
        hits = f"{next(iter(point.here.values())).hit_rate:.1%}" if point.here else ""
        rows.append([point.name, *cells, hits, f"{point.nearest}: {point.why}" if point.nearest else point.why])
    return Report([Table(f"The paper's points: {SHAPE} on {TARGET}, 25 % skipped", columns, rows)], listed=listed)
