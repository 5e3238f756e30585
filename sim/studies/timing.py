"""Study ``timing``: the timing engine's cycles against the RTL's, over machines, models, prompt lengths and skip ratios."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot

from compiler.frontend.checkpoint import Checkpoint, load
from compiler.frontend.shapes import outline, random_checkpoint
from compiler.pipeline import compile_checkpoint
from sim.engine import Result
from sim.routing import independent
from sim.rtl import engine as rtl
from sim.rtl.build import build
from sim.timing import engine as timing
from skipopu.errors import ProgramError, SkipopuError
from skipopu.isa.program import Run
from skipopu.machine.config import Machine, describe
from skipopu.model_config import ModelConfig
from skipopu.report import Record

matplotlib.use("Agg")

FITTED = "tiny"  # the machine that the fixed pipeline lengths were read from
# Formulas were mended after differences that showed on these; no constant was changed for them.
LOOKED_AT = ("mono", "trio", "u280-slice4", "deep", "duo", "hexa")
# Machines that this study alone runs. deep is four of u280's slices with its FIFOs, and room for a larger model; hexa's weight FIFO
# holds less than its memory's latency takes, which no description for a device does; quad and octo were run once everything was
# settled.
DESCRIPTIONS: tuple[dict[str, Any], ...] = (
    describe("u280-slice4")
    | {
        "name": "deep",
        "weight_fifo": 512,
        "kv_fifo": 512,
        "weights_in_flight": 64,
        "write_burst": 64,
        "buffer": 32768,
        "activation": 4096,
    },
    {
        "name": "duo",
        "ports": 2,
        "port_bits": 256,
        "tokens": 3,
        "vector_lanes": 8,
        "buffer": 8192,
        "activation": 1024,
        "query": 512,
        "map_entries": 2048,
        "score_entries": 8192,
        "weight_fifo": 48,
        "kv_fifo": 32,
        "burst": 8,
        "clock_mhz": 250,
        "memory": "ddr4-2400",
    },
    {
        "name": "hexa",
        "ports": 6,
        "port_bits": 64,
        "tokens": 2,
        "vector_lanes": 4,
        "buffer": 4096,
        "activation": 512,
        "query": 256,
        "map_entries": 1024,
        "score_entries": 4096,
        "weight_fifo": 40,
        "kv_fifo": 24,
        "burst": 4,
        "history": 64,
        "memory": {"latency": 41, "beats_per_256_cycles": 222, "refresh_interval": 700, "refresh": 45, "turnaround": 3},
    },
    {
        "name": "quad",
        "ports": 4,
        "port_bits": 256,
        "tokens": 2,
        "vector_lanes": 16,
        "buffer": 8192,
        "activation": 1024,
        "query": 512,
        "map_entries": 2048,
        "score_entries": 8192,
        "weight_fifo": 128,
        "weights_in_flight": 64,
        "kv_fifo": 64,
        "burst": 16,
        "write_burst": 32,
        "history": 256,
        "clock_mhz": 225,
        "memory": "hbm2",
    },
    {
        "name": "octo",
        "ports": 8,
        "port_bits": 128,
        "tokens": 4,
        "vector_lanes": 8,
        "buffer": 8192,
        "activation": 1024,
        "query": 512,
        "map_entries": 2048,
        "score_entries": 8192,
        "weight_fifo": 64,
        "kv_fifo": 64,
        "burst": 16,
        "clock_mhz": 200,
        "memory": "ddr4-2400",
    },
)
# hidden, intermediate, layers, heads, KV heads, head_dim, vocabulary, positions; random weights. The large one waits for memory; it
# runs where it fits.
MODELS = {
    "gqa": ModelConfig(128, 256, 3, 8, 2, 32, 300, 128),
    "mha": ModelConfig(96, 160, 6, 4, 4, 32, 256, 128),
    "wide": ModelConfig(128, 384, 2, 4, 1, 32, 900, 128),
    "large": ModelConfig(512, 1024, 3, 8, 8, 64, 512, 256),
}
PROMPTS = (3, 40)
NEW = 6
SKIPS = (0.0, 0.25, 0.5)
SEED = 0
BOUND = 0.03

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One run: cycles of both engines and beats that they fetched ahead; whether they moved the same beats otherwise."""

    target: str
    model: str
    prompt: int
    skip: float
    rtl: int
    timing: int
    ahead_rtl: int
    ahead_timing: int
    beats_equal: bool

    @property
    def error(self) -> float:
        return self.timing / self.rtl - 1


def machines() -> list[Machine]:
    """The fitted one first."""
    own = [Machine.from_dict(description, description["name"]) for description in DESCRIPTIONS]
    return [*(Machine.load(name) for name in (FITTED, "mono", "trio", "u280-slice4")), *own]


def group_of(machine: Machine) -> int:
    """Weights per scale: as small as the machine's beats allow, so that small models have several groups."""
    return max(32, machine.weight_lanes)


def fits(machine: Machine, config: ModelConfig) -> bool:
    try:
        compile_checkpoint(outline("", config=config), machine, context=max(PROMPTS) + NEW, group=group_of(machine))
    except ProgramError:
        return False
    return True


def compare(machine: Machine, name: str, checkpoint: Checkpoint, prompt: int, skip: float) -> Row:
    """One program under one random trace on both engines."""
    config = checkpoint.config
    program = compile_checkpoint(checkpoint, machine, context=prompt + NEW, group=group_of(machine))
    trace = independent(config.num_layers, prompt + NEW, skip, skip, SEED)
    run = Run(tuple(i % config.vocab_size for i in range(1, prompt + 1)), NEW, routing=trace)
    seen = rtl.run(program, run)
    predicted = timing.run(program, run, Result(seen.tokens, trace)).counters
    cycles, ahead, used, written = zip(*map(counted, (seen.counters, predicted)), strict=True)
    return Row(machine.name, name, prompt, skip, *cycles, *ahead, used[0] == used[1] and written[0] == written[1])


def counted(counters: dict[str, int]) -> tuple[int, int, int, int]:
    """(cycles; beats fetched ahead; beats used, from memory or the history buffer; beats written)."""
    ahead = counters["AHEAD_BEATS"]
    used = counters["READ_BEATS"] + counters["HISTORY_BEATS"] - ahead
    return counters["CYCLES"], ahead, used, counters["WRITE_BEATS"]


def study(
    model: Path,
    say: Say = lambda text: None,
    targets: Sequence[Machine] | None = None,
    prompts: Sequence[int] = PROMPTS,
    skips: Sequence[float] = SKIPS,
) -> list[Row]:
    """Every run; on two cores about ten minutes, and as many when no RTL is built yet."""
    checkpoints = {model.name: load(model, None)}
    checkpoints |= {name: random_checkpoint(config, SEED, routers=False) for name, config in MODELS.items()}
    chosen = machines() if targets is None else targets
    for machine in chosen:
        say(f"RTL of {machine.name} is built")
        build(machine)
    pairs = [(m, name, c) for m in chosen for name, c in checkpoints.items() if fits(m, c.config)]
    jobs = [(*pair, n, skip) for pair in pairs for n in prompts for skip in skips]
    rows: dict[int, Row] = {}
    # The simulations are processes of their own.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {pool.submit(compare, *job): number for number, job in enumerate(jobs)}
        for done, future in enumerate(as_completed(futures), 1):
            rows[futures[future]] = row = future.result()
            if not row.beats_equal:
                pool.shutdown(cancel_futures=True)
                raise SkipopuError(f"{row.model} on {row.target}: the timing engine and the RTL count different beats")
            say(f"{done} of {len(jobs)} runs; {row.model} on {row.target}, {row.error:+.1%}")
    return [rows[number] for number in range(len(jobs))]


def role(target: str) -> str:
    return "fitted" if target == FITTED else "looked at" if target in LOOKED_AT else "held out"


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Errors by machine and model: least and largest over prompt lengths and skip ratios, the mean of magnitudes, that of beats
    fetched ahead."""
    models = list(dict.fromkeys(row.model for row in rows))
    header = ["machine", "", *models, "mean magnitude", "runs", "beats used", "fetched ahead"]
    cells = []
    for target in dict.fromkeys(row.target for row in rows):
        of = [row for row in rows if row.target == target]
        line = [target, role(target)]
        for model in models:
            errors = [row.error for row in of if row.model == model]
            line.append(f"{min(errors):+.1%} to {max(errors):+.1%}" if errors else "")
        magnitude = np.mean([abs(row.error) for row in of])
        equal = "equal" if all(row.beats_equal for row in of) else "differ"
        seen, predicted = (sum(counts) for counts in ([r.ahead_rtl for r in of], [r.ahead_timing for r in of]))
        cells.append([*line, f"{magnitude:.2%}", str(len(of)), equal, f"{predicted / seen - 1:+.1%}" if seen else ""])
    return header, cells


def by_run_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Errors by prompt length and skip ratio, over all machines and models."""
    header = [f"prompt, {NEW} new tokens", *(f"{skip:.0%} skipped" for skip in dict.fromkeys(row.skip for row in rows))]
    cells = []
    for prompt in dict.fromkeys(row.prompt for row in rows):
        line = [str(prompt)]
        for skip in dict.fromkeys(row.skip for row in rows):
            errors = [row.error for row in rows if (row.prompt, row.skip) == (prompt, skip)]
            line.append(f"{min(errors):+.1%} to {max(errors):+.1%}")
        cells.append(line)
    return header, cells


TABLES = (
    ("Timing engine against RTL: error of cycles, least to largest, by machine and model", table),
    ("The same by prompt length and skip ratio", by_run_table),
)


def records(rows: Sequence[Row]) -> list[Record]:
    result = []
    for row in rows:
        keys = {
            "target": row.target,
            "model": row.model,
            "context": f"{row.prompt}+{NEW}",
            "skip": row.skip,
            "kv": "reuse",
        }
        for engine, cycles, ahead in (("rtl", row.rtl, row.ahead_rtl), ("timing", row.timing, row.ahead_timing)):
            source = f"{engine} counters"
            result.append(Record("cycles", cycles, "cycle", "simulated", source, engine=engine, **keys))
            result.append(Record("ahead_beats", ahead, "beat", "simulated", source, engine=engine, **keys))
        result.append(Record("cycle_error", round(row.error, 5), "ratio", "derived", "timing / rtl - 1", **keys))
    return result


def plot(rows: Sequence[Row], path: Path) -> None:
    """Error of every run over its cycles."""
    figure, axis = pyplot.subplots(figsize=(8, 4))
    for target in dict.fromkeys(row.target for row in rows):
        of = [row for row in rows if row.target == target]
        axis.scatter([row.rtl for row in of], [100 * row.error for row in of], s=18, label=f"{target} ({role(target)})")
    for bound in (-BOUND, BOUND):
        axis.axhline(100 * bound, color="#999999", linewidth=0.8, linestyle="--")
    axis.axhline(0, color="#444444", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_xlabel("RTL cycles of a run")
    axis.set_ylabel("timing engine, error in %")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, ncols=3)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
