"""``skipopu study``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from sim.command.common import console, inputs_of, out
from skipopu.arguments import add_json, output_directory, positive, refuse
from skipopu.errors import SkipopuError
from skipopu.plots import png
from skipopu.report import Report, write_json
from skipopu.shipped import path_or_shipped
from skipopu.terminal import doing, show

Say = Callable[[str], None]

BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
DEFAULT_BYTES = {"pe": 8192, "accuracy": 32768}
DECODE_BEGIN, DECODE_END = "<!-- decode: begin -->\n", "<!-- decode: end -->\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        choices=STUDIES,
        metavar="NAME",
        help="pe: array variants, their resources, error, bits per byte; fusion: what each step of the fused dataflow saves;"
        " kv: how fast keys and values are read, what the history buffer spares; timing: counted cycles against the RTL's;"
        " families: models of every family on all engines; masks: what leaving out channels is worth, at full size and in RTL; accuracy: bits per byte and bytes per token by format, quantiser, skipping, masks;"
        " clock: estimated clocks of units against routed ones;"
        " speculation: several tokens at once, by acceptance at full size and by prompt lookup in RTL",
    )
    parser.add_argument(
        "--model", type=path_or_shipped, default="models/pybyte-1m", help="checkpoint; default models/pybyte-1m"
    )
    parser.add_argument(
        "--bytes", type=positive, metavar="N", help="of held-out text (pe, accuracy); default 8192, and 32768 for accuracy"
    )
    parser.add_argument("--target", metavar="NAME", help="machine whose bytes are counted (accuracy); default tiny")
    parser.add_argument("--log", type=Path, metavar="FILE", help="runs on generated machines that skipopu fuzz logged (timing)")
    parser.add_argument(
        "--decode", action="store_true", help="decoding by latency, clock and refresh instead, by the timing engine (timing)"
    )
    parser.add_argument("-o", "--output", type=output_directory, metavar="DIR", help="write NAME.json and the plots there")
    parser.add_argument("--update", type=Path, metavar="PAGE", help="replace the tables of a page")
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    if args.name not in DEFAULT_BYTES:
        refuse(args, ["--bytes"], "is of the studies pe and accuracy")
    args.bytes = args.bytes or DEFAULT_BYTES.get(args.name)
    if args.name != "accuracy":
        refuse(args, ["--target"], "is of the study accuracy")
    if args.name == "families":
        refuse(args, ["--model"], "has no effect on the study families, which makes its models")
    if args.name == "clock":
        refuse(args, ["--model"], "has no effect on the study clock, which needs no model")
    if args.name != "timing":
        refuse(args, ["--log", "--decode"], "is of the study timing")
    elif (args.log is None) != args.decode:
        raise SkipopuError("study timing needs either --log FILE, which `skipopu fuzz --log FILE` writes, or --decode")
    begin, end, name = (DECODE_BEGIN, DECODE_END, "decode") if args.decode else (BEGIN, END, args.name)
    page = args.update.read_text(encoding="utf-8") if args.update else ""
    if args.update and (begin not in page or end not in page):
        raise SkipopuError(f"{args.update}: no lines {begin.strip()!r} and {end.strip()!r} to put the table between")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
    with doing(f"study {args.name}") as say:
        report = STUDIES[args.name](args, say)
    for table in report.tables:
        show(table)
    for line in report.findings:
        out.print(line)
    for file in filter(None, (args.json, args.output and args.output / f"{name}.json")):
        write_json(file, f"study {args.name}", inputs_of(args), report.records)
    if args.update:
        head, rest = page.split(begin)
        args.update.write_text(head + begin + report.markdown + end + rest.split(end)[1], encoding="utf-8")
    if args.output:
        with console.status("plots"):
            for plot in report.plots:
                png(plot, args.output)
        console.print(f"Written to {args.output.resolve()}.", soft_wrap=True)
    return 0


def pe_study(args: argparse.Namespace, say: Say) -> Report:
    from sim.studies import pe

    if not (args.model / "heldout.txt").exists():
        raise SkipopuError(f"{args.model}: heldout.txt is missing; the study needs a model directory with held-out text")
    return pe.report(args.model, args.bytes, say)


def accuracy_study(args: argparse.Namespace, say: Say) -> Report:
    from sim.studies import accuracy

    return accuracy.report(args.model, accuracy.Design(target=args.target or "tiny", size=args.bytes), say)


def fusion_study(args: argparse.Namespace, say: Say) -> Report:
    from sim.studies import fusion

    return fusion.report(args.model, say)


def kv_study(args: argparse.Namespace, say: Say) -> Report:
    from sim.studies import kv

    return kv.report(args.model, say)


def timing_study(args: argparse.Namespace, say: Say) -> Report:
    from sim.studies import timing

    return timing.decode_report() if args.decode else timing.report(args.log, say)


def families_study(args: argparse.Namespace, say: Say) -> Report:
    from sim.studies import families

    return families.report(say)


def masks_study(args: argparse.Namespace, say: Say) -> Report:
    from sim.studies import masks

    return masks.report(args.model, say)


def speculation_study(args: argparse.Namespace, say: Say) -> Report:
    from sim.studies import speculation

    return speculation.report(args.model, say)


def clock_study(args: argparse.Namespace, say: Say) -> Report:
    from sim.studies import clock

    return clock.report(say)


STUDIES: dict[str, Callable[[argparse.Namespace, Say], Report]] = {
    "pe": pe_study,
    "fusion": fusion_study,
    "kv": kv_study,
    "timing": timing_study,
    "families": families_study,
    "accuracy": accuracy_study,
    "masks": masks_study,
    "clock": clock_study,
    "speculation": speculation_study,
}
