"""``skipopu study``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from sim.command.common import console
from sim.studies import pe
from skipopu.errors import SkipopuError
from skipopu.report import write_json

STUDIES = ("pe",)
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", choices=STUDIES, metavar="NAME", help="pe: array variants, their resources, error, bits per byte"
    )
    parser.add_argument("--model", type=Path, default=Path("models/pybyte-1m"), help="checkpoint; default models/pybyte-1m")
    parser.add_argument("--bytes", type=int, default=4096, metavar="N", help="of held-out text; default 4096")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="write NAME.json and the plot there")
    parser.add_argument("--update", type=Path, metavar="PAGE", help="replace the table of a page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as records")


def main(args: argparse.Namespace) -> int:
    if not (args.model / "heldout.txt").exists():
        raise SkipopuError(f"{args.model}: heldout.txt is missing; the study needs a model directory with held-out text")
    page = args.update.read_text() if args.update else ""
    if args.update and (BEGIN not in page or END not in page):
        raise SkipopuError(f"{args.update}: no lines {BEGIN.strip()!r} and {END.strip()!r} to put the table between")
    with console.status("study") as status:
        rows = pe.study(args.model, args.bytes, status.update)
    for title, (header, cells) in zip(("Resources per product and cycle, UltraScale+", "Errors in %"), pe.TABLES, strict=True):
        table = Table(title=title)
        for name in header:
            table.add_column(name, justify="left" if name == "profile" else "right")
        for row in rows:
            table.add_row(*cells(row), style="bold" if row.profile.name == "exact18" else "")
        console.print(table)
    records = pe.records(rows, args.model.name, args.bytes)
    files = [args.json] if args.json else []
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        files.append(args.output / "pe.json")
        pe.plot(rows, args.output / "pe-array.png")
    for file in files:
        write_json(file, "study pe", {"model": args.model, "bytes": args.bytes}, records)
    if args.update:
        head, rest = page.split(BEGIN)
        args.update.write_text(head + BEGIN + pe.markdown(rows) + END + rest.split(END)[1])
    return 0
