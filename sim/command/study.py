"""``skipopu study``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from sim.command.common import console, inputs_of, out
from skipopu.arguments import add_json, output_directory, positive, refuse
from skipopu.errors import SkipopuError
from skipopu.report import Record, write_json
from skipopu.shipped import path_or_shipped

BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
DECODE_BEGIN, DECODE_END = "<!-- decode: begin -->\n", "<!-- decode: end -->\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        choices=STUDIES,
        metavar="NAME",
        help="pe: array variants, their resources, error, bits per byte; fusion: what each step of the fused dataflow saves;"
        " kv: how fast keys and values are read, what the history buffer spares; timing: counted cycles against the RTL's",
    )
    parser.add_argument(
        "--model", type=path_or_shipped, default="models/pybyte-1m", help="checkpoint; default models/pybyte-1m"
    )
    parser.add_argument("--bytes", type=positive, default=8192, metavar="N", help="of held-out text (pe); default 8192")
    parser.add_argument("--log", type=Path, metavar="FILE", help="runs on generated machines that skipopu fuzz logged (timing)")
    parser.add_argument(
        "--decode", action="store_true", help="decoding by latency, clock and refresh instead, by the timing engine (timing)"
    )
    parser.add_argument("-o", "--output", type=output_directory, metavar="DIR", help="write NAME.json and the plots there")
    parser.add_argument("--update", type=Path, metavar="PAGE", help="replace the tables of a page")
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    if args.name != "pe":
        refuse(args, ["--bytes"], "is of the study pe")
    if args.name != "timing":
        refuse(args, ["--log", "--decode"], "is of the study timing")
    elif (args.log is None) != args.decode:
        raise SkipopuError("study timing needs either --log FILE, which `skipopu fuzz --log FILE` writes, or --decode")
    begin, end, name = (DECODE_BEGIN, DECODE_END, "decode") if args.decode else (BEGIN, END, args.name)
    page = args.update.read_text() if args.update else ""
    if args.update and (begin not in page or end not in page):
        raise SkipopuError(f"{args.update}: no lines {begin.strip()!r} and {end.strip()!r} to put the table between")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
    records, text = STUDIES[args.name](args)
    for file in filter(None, (args.json, args.output and args.output / f"{name}.json")):
        write_json(file, f"study {args.name}", inputs_of(args), records)
    if args.update:
        head, rest = page.split(begin)
        args.update.write_text(head + begin + text + end + rest.split(end)[1])
    if args.output:
        console.print(f"Written to {args.output.resolve()}.", soft_wrap=True)
    return 0


def markdown(tables: Sequence[tuple[str, tuple[list[str], list[list[str]]]]]) -> str:
    """Tables of a page: title, header, rows."""
    parts = []
    for title, (header, rows) in tables:
        lines = [f"**{title}**", "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        parts.append("\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]))
    return "\n\n".join(parts) + "\n"


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], bold: int | None = None) -> None:
    table = Table(title=title)
    for k, name in enumerate(header):
        table.add_column(name, justify="right" if k else "left")
    for k, row in enumerate(rows):
        table.add_row(*row, style="bold" if k == bold else "")
    out.print(table)


def pe_study(args: argparse.Namespace) -> tuple[list[Record], str]:
    """Shows the study of array variants; returns its records and tables in Markdown."""
    from sim.studies import pe

    if not (args.model / "heldout.txt").exists():
        raise SkipopuError(f"{args.model}: heldout.txt is missing; the study needs a model directory with held-out text")
    with console.status("study") as status:
        rows = pe.study(args.model, args.bytes, status.update)
    default = next(k for k, row in enumerate(rows) if row.profile.name == "exact18")
    for title, (header, cells) in zip(("Resources per product and cycle, UltraScale+", "Errors in %"), pe.TABLES, strict=True):
        show(title, header, [cells(row) for row in rows], default)
    if args.output:
        pe.plot(rows, args.output / "pe-array.png")
    return pe.records(rows, args.model.name, args.bytes), pe.markdown(rows)


def fusion_study(args: argparse.Namespace) -> tuple[list[Record], str]:
    """Shows the study of the fused dataflow; returns its records and tables in Markdown."""
    from sim.studies import fusion

    with console.status("study") as status:
        result = fusion.study(args.model, status.update)
        if args.output:
            fusion.timelines(args.output / "timeline.png")
    tables = [(title, table(result)) for title, table in fusion.TABLES]
    for title, table in tables:
        show(title, *table)
    return fusion.records(result, args.model.name), markdown(tables)


def kv_study(args: argparse.Namespace) -> tuple[list[Record], str]:
    """Shows the study of the KV memory system; returns its records and tables in Markdown."""
    from sim.studies import kv, kv_report

    with console.status("study") as status:
        result = kv.study(args.model, status.update)
    for title, table in kv_report.tables(result):
        show(title, *table)
    if args.output:
        kv_report.plot(result, args.output / "kv-memory.png")
    return kv_report.records(result, args.model.name), markdown(kv_report.tables(result))


def timing_study(args: argparse.Namespace) -> tuple[list[Record], str]:
    """Shows the timing engine's errors, or with ``--decode`` what decoding depends on; returns records and tables in Markdown."""
    from sim.studies import timing

    if args.decode:
        with console.status("decoding"):
            records = timing.decode()
        title, table = timing.DECODE_TITLE, timing.decode_table(records)
    else:
        with console.status("study") as status:
            rows = timing.study(args.log, status.update)
        title, table, records = timing.TITLE, timing.by_feature(rows), timing.records(rows)
        if args.output:
            timing.plot(rows, args.output / "timing.png")
        worst = max(rows, key=lambda row: abs(row.error))
        console.print(f"Largest: {worst.machine.name}, program {worst.number}, {worst.error:+.2%} of {worst.rtl:,} cycles.")
    show(title, *table)
    return records, markdown([(title, table)])


STUDIES = {"pe": pe_study, "fusion": fusion_study, "kv": kv_study, "timing": timing_study}
