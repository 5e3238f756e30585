"""``skipopu quantise``."""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from pathlib import Path

from rich.progress import Progress

from compiler.frontend import routers as router_files
from compiler.frontend.checkpoint import Checkpoint, load
from compiler.pipeline import KV_POLICIES
from compiler.quantise.choose import METHODS
from compiler.quantise.products import folded
from compiler.quantise.write import WEIGHTS, Writer
from sim.command.common import inputs_of, warn
from sim.evaluation import Evaluation
from sim.quantise.calibrate import Asked, Quantised, quantise, router_tensors
from sim.quantise.loss import loss_of, model_of, to_nearest
from sim.quantise.text import calibration_text, drawn, seen
from skipopu.arguments import add_json, add_seed, integer, output_directory, positive
from skipopu.errors import ProgramError
from skipopu.numerics.formats import INT8, Format
from skipopu.policy import KvPolicy
from skipopu.report import Cell, Keys, Record, Table, shown, write_json
from skipopu.shipped import NAMES, path_or_shipped
from skipopu.terminal import console, show
from skipopu.text import Passage

BEST, BEST_METHOD = "best", "gptq"
PRODUCTS = ("q", "k", "v", "o", "gate", "up", "down", "head")


def products(text: str) -> tuple[str, ...]:
    """Names of products with commas between them."""
    names = tuple(text.split(","))
    if wrong := [name for name in names if name not in PRODUCTS]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is no product; accepted: some of {','.join(PRODUCTS)}")
    return names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=path_or_shipped, help=f"checkpoint directory, or a shipped model: {', '.join(NAMES)}")
    parser.add_argument("-o", "--output", type=output_directory, required=True, help="directory for the quantised checkpoint")
    parser.add_argument(
        "--method",
        choices=(BEST, *METHODS),
        default=BEST,
        help="rtn: round to nearest; default best: gptq, or rtn where it loses less on the calibration text",
    )
    parser.add_argument("--routers", type=Path, metavar="FILE", help="router weights; default routers.* of the checkpoint")
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="text to calibrate on, or ids (.npy); default the source of Python's standard library",
    )
    parser.add_argument("--samples", type=positive, default=128, metavar="N", help="windows of it; default 128")
    parser.add_argument("--window", type=integer(2), default=256, metavar="TOKENS", help="default 256")
    add_seed(parser, "of the windows' places")
    parser.add_argument("--group", type=positive, metavar="N", help="weights per scale; default the model's weight_group")
    parser.add_argument(
        "--int8", type=products, default=(), metavar="PRODUCTS", help=f"in 8 bits: some of {','.join(PRODUCTS)}"
    )
    parser.add_argument("--plain", action="store_true", help="write the values in FP32, not the integers")
    parser.add_argument("--kv", choices=KV_POLICIES, default="reuse", help="KV of tokens that skip attention; default reuse")
    parser.add_argument("--always", action="store_true", help="execute every module")
    parser.add_argument("--text", type=path_or_shipped, metavar="FILE", help="measure losses on this text; default the windows")
    add_json(parser)


def losses(checkpoint: Checkpoint, found: Quantised, asked: Asked, passage: Passage, window: int) -> dict[str, Evaluation]:
    """Of the checkpoint as it is, rounded to nearest, and quantised."""
    config, routers = checkpoint.config.untied, router_tensors(checkpoint)
    original = folded(config, checkpoint.tensors)
    dense = asked.dense or checkpoint.routers is None
    models = {
        "as it is": lambda: model_of(config, original, routers),
        "to nearest": lambda: model_of(config, to_nearest(config, original, asked), routers, asked.group),
    }
    if asked.method != "rtn":
        models[asked.method] = lambda: model_of(config, found.tensors, routers, asked.group)
    return {name: loss_of(model(), passage, window, asked.kv, dense) for name, model in models.items()}


def rounding_is_better(results: dict[str, Evaluation], asked: Asked) -> bool:
    return asked.method != "rtn" and results[asked.method].nats > results["to nearest"].nats


def main(args: argparse.Namespace) -> int:
    begin = time.perf_counter()
    if args.output.resolve() == args.model.resolve():
        raise ProgramError(f"--output is {args.output}, the checkpoint itself; another directory is needed")
    if args.text is not None and args.calibration is not None and args.text.resolve() == args.calibration.resolve():
        raise ProgramError(f"--text is {args.text}, the calibration text; losses on it say nothing: give another text")
    checkpoint = load(args.model, args.routers)
    config = checkpoint.config
    group = config.weight_group if args.group is None else args.group
    if "gate" in args.int8 and not config.gated:
        raise ProgramError(f"--int8 names gate, which {args.model} has not; accepted: some of {','.join(PRODUCTS)}")
    window = min(args.window, config.max_positions)
    formats: dict[str, Format] = dict.fromkeys(args.int8, INT8)
    asked = Asked(group, BEST_METHOD if args.method == BEST else args.method, formats, KvPolicy(args.kv), args.always)
    writer = Writer(checkpoint, config.untied, group, formats, args.plain)
    calibration = calibration_text(args.calibration, config, args.model)
    windows = drawn(calibration, args.samples, window, args.seed, args.calibration or "the standard library's source")
    measured = calibration_text(args.text, config, args.model) if args.text else None
    if args.calibration is None:
        console.print("Calibrating on the source of Python's standard library; --calibration FILE gives another text.")

    def quantised(asked: Asked) -> Quantised:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            return quantise(checkpoint, windows, asked, lambda what, items: progress.track(items, description=what))

    found = quantised(asked)
    with console.status("measuring"):
        own = seen(windows, calibration)
        results = losses(checkpoint, found, asked, own, window) if args.method == BEST or measured is None else {}
    if args.method == BEST and rounding_is_better(results, asked):
        console.print("Rounding to nearest loses less on the calibration text, as where training rounded too: it is taken.")
        asked = dataclasses.replace(asked, method="rtn")
        found = quantised(asked)
        results.pop(BEST_METHOD)
    if measured is not None:
        with console.status("measuring"):
            results = losses(checkpoint, found, asked, measured, window)
    routers = args.routers or router_files.beside(args.model)
    size = writer.write(args.output, found.tensors, found.rounded, routers)
    tables, records = report(found, results, asked, args)
    for table in tables:
        show(table)
    seconds = time.perf_counter() - begin
    print(f"{args.output / WEIGHTS}: {size} bytes of codes and scales, {largest(found)}, {seconds:.0f} s")
    if rounding_is_better(results, asked):
        warn(f"rounding to nearest loses less than {asked.method}: was the model trained with it? --method rtn keeps it")
    if args.json:
        records.append(Record("weight_bytes", size, "byte", "derived", "skipopu quantise", model=args.model.name))
        records.append(Record("wall_s", round(seconds, 2), "s", "measured", "skipopu quantise", model=args.model.name))
        write_json(
            args.json, "quantise", inputs_of(args) | {"group": group, "window": window}, records, {"method": asked.method}
        )
    return 0 if all(math.isfinite(result.nats) for result in results.values()) else 1


def report(
    found: Quantised, results: dict[str, Evaluation], asked: Asked, args: argparse.Namespace
) -> tuple[list[Table], list[Record]]:
    """Tables of losses and of each tensor's error, and their records; ranges are records alone."""
    keys: Keys = {"engine": "reference", "model": args.model.name, "kv": "all executed" if asked.dense else str(asked.kv)}
    source = "skipopu quantise"
    tables: list[Table] = []
    rows: list[list[Cell]] = []
    text = args.text.name if args.text else "the calibration text itself"
    for name, result in results.items():
        own: Keys = keys | {"system": name}
        nats = Record("nats_per_token", result.nats_per_token, "nat/token", "simulated", f"{source}, {text}", **own)
        bits = (
            [Record("bits_per_byte", result.bits_per_byte, "bit/byte", "simulated", f"{source}, {text}", **own)]
            if result.bytes
            else []
        )
        share = Record("executed_share", result.executed_share, "ratio", "simulated", f"{source}, {text}", **own)
        rows.append([name, shown("{:.4f}", nats), shown("{:.4f}", bits[0]) if bits else "-", shown("{:.3f}", share)])
    columns = ("weights", "nats/token", "bits/byte", "executed share")
    tables.append(Table(f"Loss of {text}, reference engine, kv {keys['kv']}", columns, rows))
    rows, of = [], asked.method if asked.method != "rtn" else "to nearest"
    for name, choice in found.choices.items():
        own = keys | {"context": name}
        errors = [
            Record("output_error", value, "ratio", "simulated", source, **(own | {"system": system}))
            for system, value in {"to nearest": choice.nearest, of: choice.chosen}.items()
        ]
        size = Record("tensor_bytes", choice.rounded.bytes, "byte", "derived", source, **own)
        cells = [shown("{:.4f}", error) for error in errors]
        rows.append([name.removesuffix(".weight"), choice.rounded.format.name, *cells, shown("{:,}", size)])
    columns = ("tensor", "format", *dict.fromkeys(("to nearest", of)), "bytes")
    tables.append(Table("Error of results on the calibration text, relative, root mean square", columns, rows))
    ranges = [
        Record(f"largest_{kind}", most, "1", "simulated", source, **(keys | {"context": _place(layer)}))
        for (kind, layer), most in found.largest.items()
    ]
    return tables, [record for table in tables for record in table.records] + ranges


def largest(found: Quantised) -> str:
    """The largest numbers of each kind in a few words."""
    kinds = dict.fromkeys(kind for kind, _ in found.largest)
    most = {kind: max(value for (its, _), value in found.largest.items() if its == kind) for kind in kinds}
    return ", ".join(f"{kind}s up to {value:.4g}" for kind, value in most.items()) + " (FP16 keys and values: 65504)"


def _place(layer: int) -> str:
    return "output" if layer < 0 else f"layer {layer}"
