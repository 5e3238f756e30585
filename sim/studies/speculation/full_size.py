"""Speculation at full size: Llama-2-7B by the timing engine, by acceptance and by what two tokens execute together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.checkpoint import load
from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim.baselines import data
from sim.functional import engine as functional
from sim.result import Routed
from sim.routing import independent
from sim.speculation import Steps, draws
from sim.studies.speculation.shipped import BY_ROUTERS, EVERYTHING, Case
from sim.timing import engine as timing
from skipopu.machine.config import Machine
from skipopu.program.run import Run
from skipopu.report import Cell, Keys, Record, Table, shown

TARGET, MODEL, PROMPT, NEW, SKIP, SEED = "u280", "llama-2-7b", 128, 1024, 0.25, 0
ACCEPTANCE = (0.0, 0.25, 0.5, 0.75, 1.0)
TEXT = 512  # bytes of held-out text whose routing stands for that of learned routers
NONE = "no drafts"
Routing = NDArray[np.bool_]


@dataclass(frozen=True)
class Counted:
    """Of a routing: the share of modules that a token executes, and two neighbours together; tokens per second without drafts, by
    acceptance, and as lookup did."""

    executed: float
    union: float
    plain: float
    speculating: tuple[float, ...]


def learned(model: Path, layers: int, tokens: int) -> Routing:
    """The shipped model's routing of held-out text, its layers behind the first in turn, its tokens in turn."""
    text = (model / "heldout.txt").read_bytes()[:TEXT]
    program = compile_checkpoint(load(model, mask_file=False), Machine.load("tiny").with_chunk(64), context=TEXT)
    real = functional.run(program, Run(tuple(text), 0)).routing
    rows = np.arange(layers - 1) % (len(real) - 1) + 1
    whole = np.concatenate([real[:1], real[rows]])
    return whole[..., np.arange(tokens) % TEXT]


def routings(model: Path) -> dict[str, Routing]:
    """Everything; a quarter of the modules by every token for itself, by the shipped model's routers, the same for all."""
    layers, tokens = outline(MODEL).config.num_layers, PROMPT + NEW
    alone = independent(layers, tokens, SKIP, SKIP, SEED)
    static = np.broadcast_to(independent(layers, 1, SKIP, SKIP, SEED), alone.shape).copy()
    static[0, 0] = True
    return {
        "everything": np.ones_like(alone),
        "25 %, independent": alone,
        "as learned routers": learned(model, layers, tokens),
        "25 %, static": static,
    }


def counts(routing: Routing, lookups: list[Case]) -> Counted:
    machine = Machine.load(TARGET)
    program = compile_checkpoint(outline(MODEL), machine, context=PROMPT + NEW)
    routed = Routed(tokens=[0] * NEW, routing=routing)
    at = timing.run(program, Run((0,) * PROMPT, NEW), timing.Options(routed)).at_token
    clock = machine.clock_mhz * 1e6
    plain = (NEW - 1) / (at[-1]["CYCLES"] - at[0]["CYCLES"]) * clock
    silent = Routed(tokens=[], routing=routing)
    rates = []
    for acceptance, found in (*((share, 1.0) for share in ACCEPTANCE), *((one.acceptance, one.found) for one in lookups)):
        runs = draws(PROMPT, NEW, acceptance, machine.free_tokens - 1, SEED, found)
        steps = Steps(program)
        for run in runs:
            steps.see(run, silent)
        rates.append(steps.tokens_per_s(NEW))
    return Counted(float(routing.mean()), float((routing[..., 1:] | routing[..., :-1]).mean()), plain, tuple(rates))


def rate(name: str, drafts: str, value: float, plain: float) -> Cell:
    source = f"timing engine, assumed clock, {name}, {drafts}"
    keys: Keys = {"target": TARGET, "model": MODEL, "context": f"{PROMPT}+{NEW}"}
    record = Record("decode_tokens_per_s", value, "token/s", "simulated", source, digits=".1f", **keys)
    times = "" if drafts == NONE else f" ({value / plain:.2f}x{', loses' * (value < plain)})"
    return shown(lambda rate: f"{rate:.1f}{times}", record)


def table(model: Path, small: list[Case], say: Callable[[str], None]) -> Table:
    """A row for each routing, a column for each acceptance, and for what lookup does on the shipped model: dense, or by its routers."""
    named = routings(model)
    texts = list(dict.fromkeys(one.text for one in small))
    of_policy = {policy: [one for one in small if one.policy == policy] for policy in (EVERYTHING, BY_ROUTERS)}
    lookups = {name: of_policy[EVERYTHING if routing.all() else BY_ROUTERS] for name, routing in named.items()}
    say(f"{MODEL} on {TARGET}, by acceptance")
    with ProcessPoolExecutor() as pool:
        found = dict(zip(named, pool.map(counts, named.values(), lookups.values()), strict=True))
    columns = [f"{share:.0%} right" for share in ACCEPTANCE] + [f"by lookup: {text}" for text in texts]
    rows: list[list[Cell]] = []
    for name, one in found.items():
        keys: Keys = {"target": TARGET, "model": MODEL, "context": f"{PROMPT}+{NEW}"}
        shares = [
            Record(what, value, "ratio", "derived", f"routing: {name}", digits=".4f", **keys)
            for what, value in (("executed_share", one.executed), ("executed_by_two", one.union))
        ]
        rows.append(
            [
                name,
                shown("{:.0%}, {:.0%}", *shares),
                rate(name, NONE, one.plain, one.plain),
                *(rate(name, drafts, value, one.plain) for drafts, value in zip(columns, one.speculating, strict=True)),
            ]
        )
    return Table(
        f"Llama-2-7B on {TARGET}, [{PROMPT}, {NEW}], tokens/s with one drafted token a run, by the share of drafts that are right",
        ["modules executed", "by a token, by two", NONE, *columns],
        rows,
        note=f"By lookup: as many runs with a draft, and as many of them right, as on {model.name}, without routers in the first row.",
    )


def published() -> Table:
    """What GPUs are said to gain."""
    every = data.gpus().rows
    rows: list[list[Cell]] = []
    for row in (row for row in every if row.bits is None):
        base = next(
            b
            for b in every
            if b.bits and (b.gpu, b.model, b.precision) == (row.gpu, row.model, row.precision) and row.stack.startswith(b.stack)
        )
        cells = [
            Record("decode_tokens_per_s", one.tokens_per_s, "token/s", "published", one.source, model=one.model, system=one.gpu, stack=one.stack, precision=one.precision)
            for one in (base, row)
        ]  # fmt: skip
        rows.append(
            [
                f"{row.gpu}, {row.stack}",
                row.model,
                row.precision,
                *(shown("{:.1f}", cell) for cell in cells),
                f"{row.tokens_per_s / base.tokens_per_s:.2f}x",
            ]
        )
    return Table("Published, on GPUs", ["system", "model", "weights", "without", "with", "gain"], rows)
