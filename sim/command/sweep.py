"""``skipopu sweep``."""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from sim import parallel, sweep
from sim.command.common import console, inputs_of
from skipopu.arguments import add_json, output_directory, positive, refuse
from skipopu.errors import SkipopuError
from skipopu.plots import png
from skipopu.report import Cell, Plot, Record, Report, Table, shown, write_json
from skipopu.terminal import Following, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = {
    "decode_tokens_per_s": "token/s",
    "time_to_first_token_s": "s",
    "bandwidth_efficiency": "ratio",
    "share_of_cap": "ratio",
    "energy_per_token_j": "J",
    "power_w": "W",
    "multipliers": "multiplier",
    "on_chip_mib": "MiB",
    "peak_gb_s": "GB/s",
    "memory_bytes": "byte",
}
ESTIMATED, COUNTED = ("energy_per_token_j", "power_w"), ("decode_tokens_per_s", "time_to_first_token_s")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sweep",
        type=Path,
        help="a sweep (.yaml): base, machine: {parameter: [values]}, workload: {shape, context, skip, mask, kv: [values]}",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=output_directory,
        required=True,
        metavar="DIR",
        help="results.csv, pareto.png; an earlier run's results there are kept",
    )
    parser.add_argument("--parquet", action="store_true", help="write results.parquet too (needs skipopu[sweep])")
    parser.add_argument("--cost", default="on_chip_mib", choices=UNITS, help="of the Pareto plot; default on_chip_mib")
    parser.add_argument(
        "--worth", default="decode_tokens_per_s", choices=UNITS, help="of the Pareto plot; default decode_tokens_per_s"
    )
    parser.add_argument(
        "--executor", choices=parallel.EXECUTORS, default="local", help="processes here, or Dask (skipopu[cluster])"
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a running Dask cluster; default one of its own")
    parser.add_argument("--jobs", type=positive, metavar="N", help="workers; default one per core")
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    if args.executor != "dask":
        refuse(args, ["--scheduler"], "is of --executor dask")
    elif args.scheduler is not None:
        refuse(args, ["--jobs"], "has no effect on a running cluster, which has its workers")
    jobs = sweep.read(args.sweep)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with parallel.executor(args.executor, args.jobs, args.scheduler) as pool, Following(*columns) as progress:
        task = progress.add_task(args.sweep.stem, total=len(jobs))
        rows = sweep.run(jobs, args.output, pool, lambda done, of: progress.update(task, completed=done))
    whole = [row for row in rows if row["status"] == "ok"]
    failed = sum(row["status"] == "failed" for row in rows)
    reasons = Counter((row["status"], row["machine"], row["shape"], row["reason"]) for row in rows if row["status"] != "ok")
    for (status, machine, name, reason), count in reasons.items():
        style = "red" if status == "failed" else "yellow"
        console.print(f"{status}: {machine}, {name} ({count} points): {reason}", style=style, soft_wrap=True)
    write_csv(rows, args.output / "results.csv")
    if args.parquet:
        write_parquet(rows, args.output / "results.parquet")
    if not whole:
        raise SkipopuError(
            f"{args.sweep}: no machine runs any of its workloads; the reasons are in {args.output / 'results.csv'}"
        )
    found = report(whole, args.cost, args.worth)
    for table in found.tables:
        show(table)
    for plot in found.plots:
        png(plot, args.output)
    refused = len(rows) - len(whole) - failed
    print(f"{args.output / 'results.csv'}: {len(whole)} points, {refused} refused, {failed} failed")
    if args.json:
        outputs = {"refused": [row for row in rows if row["status"] == "refused"], "failed": failed}
        write_json(args.json, "sweep", inputs_of(args), found.records, outputs)
    return 1 if failed else 0


def group_of(row: dict[str, Any]) -> str:
    masked = f", mask {row['mask']}" if "mask" in row else ""
    return f"{row['shape']} [{row['context']}], skip {row['skip']}{masked}, {row['kv']} KV"


def fronts(rows: list[dict[str, Any]], cost: str, worth: str) -> dict[str, list[int]]:
    """Per workload the numbers of the rows that no other machine is better than in both."""
    sign = -1 if worth in ("time_to_first_token_s", "energy_per_token_j", "power_w", "memory_bytes", "on_chip_mib") else 1
    result = {}
    for group in dict.fromkeys(map(group_of, rows)):
        numbers = [k for k, row in enumerate(rows) if group_of(row) == group]
        points = [(rows[k][cost], sign * rows[k][worth]) for k in numbers]
        result[group] = [numbers[k] for k in sweep.pareto(points)]
    return result


def report(rows: list[dict[str, Any]], cost: str, worth: str) -> Report:
    """Machines that none is better than, by workload, and all of them in the plot."""
    figures = [records(row) for row in rows]
    front = fronts(rows, cost, worth)
    lines: list[list[Cell]] = []
    for group, numbers in front.items():
        for place, k in enumerate(numbers):
            values = (shown("{:.4g}", figures[k][name]) for name in (cost, worth))
            lines.append(["" if place else group, rows[k]["machine"], *values])
    title = f"Machines that none is better than: {cost} against {worth}"
    plot = Plot("pareto", lambda figure: draw(figure, rows, front, cost, worth), (8, 5))
    listed = [record for row in figures for record in row.values()]
    return Report([Table(title, ["workload", "machine", cost, worth], lines)], [plot], listed=listed)


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """All lines; columns in the order of their first appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    try:
        from pyarrow import Table as Arrow
        from pyarrow.parquet import write_table
    except ImportError:
        raise SkipopuError("--parquet needs pyarrow: pip install 'skipopu[sweep]'") from None
    names = dict.fromkeys(name for row in rows for name in row)
    write_table(Arrow.from_pylist([{name: row.get(name) for name in names} for row in rows]), path)


def draw(figure: Figure, rows: list[dict[str, Any]], front: dict[str, list[int]], cost: str, worth: str) -> None:
    """Every machine, and the front of each workload."""
    axis = figure.subplots()
    for number, (group, numbers) in enumerate(front.items()):
        colour = f"C{number % 10}"
        of, best = [row for row in rows if group_of(row) == group], [rows[k] for k in numbers]
        axis.scatter([row[cost] for row in of], [row[worth] for row in of], s=14, color=colour, alpha=0.5)
        axis.plot([row[cost] for row in best], [row[worth] for row in best], color=colour, marker="o", label=group)
    axis.set_xlabel(f"{cost}, {UNITS[cost]}")
    axis.set_ylabel(f"{worth}, {UNITS[worth]}")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)


def records(row: dict[str, Any]) -> dict[str, Record]:
    """A line's figures by name."""
    skip = float(row["skip"]) if row["skip"].replace(".", "", 1).isdigit() else None
    keys = {"engine": "timing", "target": row["machine"], "model": row["shape"], "context": row["context"], "skip": skip}
    keys["masked"] = row.get("mask")
    kinds = dict.fromkeys(ESTIMATED, "estimated") | dict.fromkeys(COUNTED, "simulated")
    return {
        name: Record(name, row[name], unit, kinds.get(name, "derived"), "skipopu sweep", kv=row["kv"], system="skipopu", **keys)
        for name, unit in UNITS.items()
    }
