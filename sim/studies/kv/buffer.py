"""The history buffer on the small machine: beats spared and cycles, in RTL and predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compiler.frontend.checkpoint import load
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.result import Computed
from sim.routing import independent
from sim.rtl import engine as rtl
from sim.studies.kv.setting import SEED, SKIP, SMALL_TARGET
from sim.timing import engine as timing
from skipopu.errors import SkipopuError
from skipopu.layout import KvEntry
from skipopu.machine.config import Machine
from skipopu.program.run import Run
from skipopu.report import Cell, Record, Report, Table, shown

SMALL = 16  # tokens of a history buffer that is too small
TEXT, NEW = 48, 16  # bytes of the prompt, tokens
SHOWN = ("CYCLES", "READ_BEATS", "HISTORY_BEATS", "AHEAD_BEATS")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Simulated:
    """One setting of the history buffer on the small machine: counters in RTL and predicted."""

    name: str
    rtl: dict[str, int]
    timing: dict[str, int]


def simulate(model: Path, say: Say) -> tuple[list[Simulated], Computed, int]:
    """The shipped model on ``tiny`` at 25 % random skips; raises unless tokens and reads are what they must be."""
    checkpoint, machine = load(model, mask_file=False), Machine.load(SMALL_TARGET)
    text = (model / "heldout.txt").read_bytes()[:TEXT]
    layers = checkpoint.config.num_layers
    rows: list[Simulated] = []
    settings: list[tuple[str, int | None, bool]] = [("off", 0, False), ("on", None, False)]
    settings += [(f"too small, {SMALL} tokens", SMALL, False), ("on, filled ahead", None, True)]
    run = Run(tuple(text), NEW, routing=independent(layers, TEXT + NEW, SKIP, SKIP, SEED))
    results: list[Computed] = []
    entry = KvEntry(checkpoint.config.num_kv_heads, checkpoint.config.head_dim, machine).size
    for name, history, prefetch in settings:
        say(f"RTL of {machine.name}, history buffer {name}")
        program = compile_checkpoint(checkpoint, machine, context=TEXT + NEW, history=history, prefetch=prefetch)
        expected = functional.run(program, run)
        results.append(expected)
        seen = rtl.run(program, run)
        if seen.tokens != expected.tokens:
            raise SkipopuError(f"history buffer {name}: RTL gives {seen.tokens}, the functional engine {expected.tokens}")
        counters = seen.counters
        rows.append(Simulated(name, counters, timing.run(program, run, timing.Options(expected)).counters))
        spared = rows[0].rtl["READ_BEATS"] - counters["READ_BEATS"]
        if spared != counters["HISTORY_BEATS"] - counters["AHEAD_BEATS"]:
            raise SkipopuError(f"history buffer {name}: {spared} beats fewer were read than without it: not the hits")
    return rows, results[-1], entry


def report(of: list[Simulated], model: str) -> Report:
    rows: list[list[Cell]] = []
    listed: list[Record] = []
    base = of[0].rtl["READ_BEATS"]

    def records(row: Simulated, engine: str, counters: dict[str, int]) -> list[Record]:
        keys = {"engine": engine, "target": SMALL_TARGET, "model": model, "skip": SKIP}
        return [
            Record(
                name.lower(),
                counters[name],
                "cycle" if name == "CYCLES" else "beat",
                "simulated",
                f"history buffer {row.name}",
                **keys,
            )
            for name in SHOWN
        ]

    for row in of:
        seen, predicted = records(row, "rtl", row.rtl), records(row, "timing", row.timing)
        listed += [*seen, *predicted]
        cycles, read, hits, ahead = seen
        rows.append(
            [
                row.name,
                shown("{:,}", cycles),
                shown(lambda mine, its: f"{mine / its - 1:+.1%}", predicted[0], cycles),
                shown("{:,}", read),
                shown(lambda beats: f"{base - beats:,}", read),
                shown("{:,}", hits),
                shown("{:,}", ahead),
            ]
        )
    columns = ["history buffer", "RTL cycles", "timing engine", "beats read", "beats spared", "hits", "fetched ahead"]
    title = f"Shipped model on {SMALL_TARGET}, {TEXT} bytes + {NEW} tokens, 25 % random skips"
    return Report([Table(title, columns, rows)], listed=listed)
