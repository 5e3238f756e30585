"""``skipopu boards``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.progress import Progress

from boards.board import Board, BoardError, Need, check, names, needs, outdated, resources_of
from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim import parallel
from sim.command.common import console, inputs_of, out, parse_context
from sim.estimate import Workload, estimate
from skipopu.arguments import add_json, ratio
from skipopu.errors import SkipopuError, not_known
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.report import Cell, Record, Table, shown, write_json
from skipopu.shapes import SHAPES, label, shape
from skipopu.shipped import MASKED, MODELS
from skipopu.shipped import NAMES as SHIPPED
from skipopu.terminal import doing, show

SOURCE = "skipopu hdl --report, board file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("board", nargs="*", help=f"boards; default all: {', '.join(names())}")
    parser.add_argument("--target", help="machine to fit, name or .yaml; default each board's own")
    parser.add_argument(
        "--shape",
        action="append",
        metavar="NAME",
        help=f"model, or a config.json; default all: {', '.join([*SHAPES, *SHIPPED])}",
    )
    parser.add_argument("--context", default="64+64", metavar="P+G", help="prompt and generated tokens; default 64+64")
    parser.add_argument(
        "--skip", type=ratio, default=0.25, metavar="RATIO", help="share of modules skipped at random; default 0.25"
    )
    add_json(parser)


def config_of(model: str) -> ModelConfig | None:
    """Shape of a shipped checkpoint; None for a known shape."""
    return ModelConfig.load(MODELS / model) if model in SHIPPED else None


def expected(job: tuple[str, str, str, float]) -> tuple[float, int]:
    """(tokens per second, largest context) of (machine, model, context, skip)."""
    target, model, context, skip = job
    machine, config = Machine.load(target), config_of(model)
    prompt, new = parse_context(context)
    part = estimate(machine, Workload(model, prompt, new, str(skip)), config)
    return part.tokens_per_s, compile_checkpoint(outline(model, "linear", config), machine).context


def board_table(rows: list[tuple[Board, Machine, list[Need], str]], note: str) -> Table:
    columns = ["board", "part", "machine", "LUT", "FF", "DSP", "BRAM", "URAM", "between dies", "ports", "GB/s", "fits"]
    names = ("lut", "ff", "dsp", "bram", "uram", "signals between dies", "memory ports", "GB/s")
    lines = []
    for board, machine, found, error in rows:
        by_name = {need.what: need for need in found}
        cells = [f"{by_name[name].share:.0%}" if name in by_name and by_name[name].available else "-" for name in names]
        lines.append([board.name, board.part, machine.name, *cells, error or "yes"])
    title = "Boards and machines, share of what the device has (synthesised, shells not counted)"
    return Table(title, columns, lines, note)


def main(args: argparse.Namespace) -> int:
    begin = time.perf_counter()
    parse_context(args.context)
    boards = [Board.load(name) for name in args.board or names()]
    # Shapes are timed without masks: MASKED would be another one's again.
    models = args.shape or [*SHAPES, *(name for name in SHIPPED if name != MASKED.name)]
    for model in models:
        if model not in (*SHAPES, *SHIPPED):
            if not Path(model).exists():
                raise BoardError(not_known("model", model, [*SHAPES, *SHIPPED], ", or a config.json or its directory"))
            shape(model)
    rows, records, code = [], [], 0
    reasons: list[str] = []
    notes: dict[str, None] = {}
    with doing("resources"):
        for board in boards:
            machine = Machine.load(args.target or board.target)
            resources = resources_of(machine)
            found, error = needs(board, machine, resources), ""
            try:
                check(board, machine, resources)
            except BoardError as refused:
                error, code = str(refused), 1
            rows.append((board, machine, found, error))
            old = outdated(machine)
            notes[old] = None
            source = f"skipopu hdl --report, {'of an earlier design, ' if old else ''}board file"
            for need in found:
                name = need.what.replace(" ", "_").replace("/", "_")
                of = Record(name, need.needed, need.what, "synthesised", source, target=machine.name, system=board.name)
                records.append(of)
    show(board_table(rows, "\n".join(filter(None, notes))))
    jobs = [
        (args.target or board.target, model, args.context, args.skip)
        for board, _, _, error in rows
        if not error
        for model in models
    ]
    results: dict[int, tuple[float, int] | SkipopuError] = {}
    with (
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
        parallel.executor("local") as pool,
    ):
        task = progress.add_task("timing engine", total=len(jobs))
        for number, outcome in parallel.finished(pool, expected, jobs):
            results[number] = outcome
            progress.advance(task)
            if not console.is_terminal:
                target, model, *_ = jobs[number]
                console.print(
                    f"timing engine: {len(results)} of {len(jobs)}, {model} on {target}, {time.perf_counter() - begin:.0f} s"
                )
    fitting = [row for row in rows if not row[3]]
    lines: list[list[Cell]] = []
    for m, model in enumerate(models):
        cells: list[Cell] = [label(model)]
        for b, (board, machine, _, _) in enumerate(fitting):
            outcome = results[b * len(models) + m]
            if isinstance(outcome, SkipopuError):
                cells.append("does not fit")
                reasons.append(f"{label(model)} on {board.name}: {outcome}")
                continue
            rate, context = outcome
            keys = {
                "target": machine.name,
                "system": board.name,
                "model": label(model),
                "context": args.context,
                "skip": args.skip,
            }
            source = f"timing engine, {machine.clock_mhz:g} MHz"
            record = Record("decode_tokens_per_s", rate, "token/s", "simulated", source, digits=".3f", **keys)
            cells.append(shown(f"{{:,.1f}}\n({context})", record))
        lines.append(cells)
    table = Table(
        f"Tokens per second expected, {args.context} tokens, {args.skip:.0%} of modules skipped at random",
        ["model", *(f"{board.name}, {machine.clock_mhz:g} MHz" for board, machine, _, _ in fitting)],
        lines,
        "Timing engine at each machine's clock; below it the largest context that fits. Only the ULX3S' clock is closed.",
    )
    if fitting:
        show(table)
    for reason in reasons:
        out.print(reason, soft_wrap=True)
    if args.json:
        write_json(
            args.json,
            "boards",
            inputs_of(args) | {"board": [b.name for b in boards], "shape": models},
            [*records, *table.records],
        )
    return code
