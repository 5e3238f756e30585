"""``skipopu sweep``."""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sim import parallel, sweep
from sim.command.common import console, inputs_of, out
from skipopu.arguments import add_json, output_directory, positive, refuse
from skipopu.errors import SkipopuError
from skipopu.report import Record, write_json

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
        help="a sweep (.yaml): base, machine: {parameter: [values]}, workload: {shape, context, skip, kv: [values]}",
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
    with parallel.executor(args.executor, args.jobs, args.scheduler) as pool, Progress(*columns, console=console) as progress:
        task = progress.add_task(escape(args.sweep.stem), total=len(jobs))
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
    front = {group: [whole[k] for k in numbers] for group, numbers in fronts(whole, args.cost, args.worth).items()}
    show(front, args.cost, args.worth)
    plot(whole, front, args.cost, args.worth, args.output / "pareto.png")
    refused = len(rows) - len(whole) - failed
    print(f"{args.output / 'results.csv'}: {len(whole)} points, {refused} refused, {failed} failed")
    if args.json:
        outputs = {"refused": [row for row in rows if row["status"] == "refused"], "failed": failed}
        write_json(args.json, "sweep", inputs_of(args), records(whole), outputs)
    return 1 if failed else 0


def group_of(row: dict[str, Any]) -> str:
    return f"{row['shape']} [{row['context']}], skip {row['skip']}, {row['kv']} KV"


def fronts(rows: list[dict[str, Any]], cost: str, worth: str) -> dict[str, list[int]]:
    """Per workload the numbers of the rows that no other machine is better than in both."""
    sign = -1 if worth in ("time_to_first_token_s", "energy_per_token_j", "power_w", "memory_bytes", "on_chip_mib") else 1
    result = {}
    for group in dict.fromkeys(map(group_of, rows)):
        numbers = [k for k, row in enumerate(rows) if group_of(row) == group]
        points = [(rows[k][cost], sign * rows[k][worth]) for k in numbers]
        result[group] = [numbers[k] for k in sweep.pareto(points)]
    return result


def show(front: dict[str, list[dict[str, Any]]], cost: str, worth: str) -> None:
    table = Table(title=f"Machines that none is better than: {cost} against {worth}")
    for column in ("workload", "machine", cost, worth):
        table.add_column(column, justify="right" if column in UNITS else "left", overflow="fold")
    for group, rows in front.items():
        for k, row in enumerate(rows):
            table.add_row(group if k == 0 else "", row["machine"], f"{row[cost]:.4g}", f"{row[worth]:.4g}")
    out.print(table)


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """All lines; columns in the order of their first appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
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


def plot(rows: list[dict[str, Any]], front: dict[str, list[dict[str, Any]]], cost: str, worth: str, path: Path) -> None:
    """Every machine, and the front of each workload."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for number, (group, best) in enumerate(front.items()):
        colour = f"C{number % 10}"
        of = [row for row in rows if group_of(row) == group]
        axis.scatter([row[cost] for row in of], [row[worth] for row in of], s=14, color=colour, alpha=0.5)
        axis.plot([row[cost] for row in best], [row[worth] for row in best], color=colour, marker="o", label=group)
    axis.set_xlabel(f"{cost}, {UNITS[cost]}")
    axis.set_ylabel(f"{worth}, {UNITS[worth]}")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def records(rows: list[dict[str, Any]]) -> list[Record]:
    result = []
    for row in rows:
        skip = float(row["skip"]) if row["skip"].replace(".", "", 1).isdigit() else None
        keys = {"engine": "timing", "target": row["machine"], "model": row["shape"], "context": row["context"]}
        for name, unit in UNITS.items():
            kind = "estimated" if name in ESTIMATED else "simulated" if name in COUNTED else "derived"
            result.append(
                Record(name, row[name], unit, kind, "skipopu sweep", skip=skip, kv=row["kv"], system="skipopu", **keys)
            )
    return result
