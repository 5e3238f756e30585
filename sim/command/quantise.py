"""``skipopu quantise``."""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from pathlib import Path

from compiler.command import add_lora
from compiler.pipeline import KV_POLICIES
from compiler.quantise.choose import METHODS
from compiler.quantise.write import WEIGHTS
from sim.command.common import add_calibration_arguments, inputs_of, warn
from sim.quantise.calibrate import Quantised
from sim.quantise.observe import HELD, OUTPUT
from sim.quantise.work import BEST, JUDGED, PRODUCTS, Quantisation, Request, carried_out
from sim.reference.threads import few_threads
from skipopu.arguments import add_json, output_directory, positive, real
from skipopu.model_config import ModelConfig
from skipopu.numerics.formats import INT8
from skipopu.report import Cell, Keys, Record, Table, shown, write_json
from skipopu.shipped import NAMES, path_or_shipped
from skipopu.terminal import Following, console, show

COMMAND = "skipopu quantise"
ratio_of_bytes = real(1, 2, "a ratio in 1..2")


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
    add_lora(parser)
    add_calibration_arguments(parser, "--calibration", 128)
    parser.add_argument("--group", type=positive, metavar="N", help="weights per scale; default the model's weight_group")
    parser.add_argument(
        "--zero-points", action="store_true", help="a zero point for each group of 4 bits (int4z), for machines that have them"
    )
    parser.add_argument(
        "--int8", type=products, default=(), metavar="PRODUCTS", help=f"in 8 bits: some of {','.join(PRODUCTS)}"
    )
    room = parser.add_mutually_exclusive_group()
    room.add_argument(
        "--bytes",
        type=positive,
        metavar="N",
        help="as many products in 8 bits as codes and scales of N bytes hold, those that gain most",
    )
    room.add_argument("--budget", type=ratio_of_bytes, metavar="RATIO", help="the same, N being RATIO times what 4 bits take")
    parser.add_argument("--plain", action="store_true", help="write the values in FP32, not the integers")
    parser.add_argument("--kv", choices=KV_POLICIES, default="reuse", help="KV of tokens that skip attention; default reuse")
    parser.add_argument("--always", action="store_true", help="execute every module")
    parser.add_argument("--text", type=path_or_shipped, metavar="FILE", help="measure losses on this text; default the windows")
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    begin = time.perf_counter()
    names = [one.name for one in dataclasses.fields(Request)]
    few_threads(ModelConfig.load(args.model))
    with Following() as progress:
        done = carried_out(
            Request(**{name: getattr(args, name) for name in names}),
            progress.follow,
            lambda sentence: console.print(sentence),
        )
    tables, records = report(done, args)
    for table in tables:
        show(table)
    for sentence in rescaled(done.found):
        print(sentence)
    seconds = time.perf_counter() - begin
    print(f"{done.directory / WEIGHTS}: {done.bytes} bytes of codes and scales, {largest(done.found)}, {seconds:.0f} s")
    if done.rounding_is_better:
        warn(f"rounding to nearest loses less than {done.method}: was the model trained with it? --method rtn keeps it")
    if args.json:
        records.append(Record("weight_bytes", done.bytes, "byte", "derived", "skipopu quantise", model=args.model.name))
        records.append(Record("wall_s", round(seconds, 2), "s", "measured", "skipopu quantise", model=args.model.name))
        window = min(args.window, done.found.config.max_positions)
        formats = {product: format.name for product, format in done.asked.formats.items()}
        outputs = {"method": done.method} | ({"formats": formats} if formats else {})
        write_json(args.json, "quantise", inputs_of(args) | {"group": done.asked.group, "window": window}, records, outputs)
    return 0 if all(math.isfinite(result.nats) for result in done.losses.values()) else 1


def report(done: Quantisation, args: argparse.Namespace) -> tuple[list[Table], list[Record]]:
    """Tables of losses, of what 8 bits gain, of ranges and of each tensor's error, and their records."""
    asked = done.asked
    keys: Keys = {"engine": "reference", "model": args.model.name, "kv": "all executed" if asked.dense else str(asked.kv)}
    text = args.text.name if args.text else "the calibration text itself"
    tables = [
        _losses(done, keys, text),
        *([_gains(done, keys, min(JUDGED, args.samples))] if done.gains else []),
        _ranges(done.found, keys),
        _errors(done, keys),
    ]
    return tables, [record for table in tables for record in table.records]


def _losses(done: Quantisation, keys: Keys, text: str) -> Table:
    rows: list[list[Cell]] = []
    for name, result in done.losses.items():
        own: Keys = keys | {"system": name}
        source = f"{COMMAND}, {text}"
        nats = Record("nats_per_token", result.nats_per_token, "nat/token", "simulated", source, **own)
        bits: Cell = "-"
        if result.bytes:
            bits = shown("{:.4f}", Record("bits_per_byte", result.bits_per_byte, "bit/byte", "simulated", source, **own))
        share = Record("executed_share", result.executed_share, "ratio", "simulated", source, **own)
        rows.append([name, shown("{:.4f}", nats), bits, shown("{:.3f}", share)])
    columns = ("weights", "nats/token", "bits/byte", "executed share")
    return Table(f"Loss of {text}, reference engine, kv {keys.get('kv')}", columns, rows)


def _gains(done: Quantisation, keys: Keys, windows: int) -> Table:
    rows: list[list[Cell]] = []
    for gain in done.gains:
        own: Keys = keys | {"context": ", ".join(gain.part)}
        cost = Record("int8_bytes", gain.bytes, "byte", "derived", COMMAND, **own)
        nats = Record(
            "int8_gain", gain.nats, "nat/token", "simulated", f"{COMMAND}, {windows} windows of the calibration text", **own
        )
        taken = all(done.asked.format(product) is INT8 for product in gain.part)
        rows.append([", ".join(gain.part), shown("{:,}", cost), shown("{:.4f}", nats), "int8" if taken else ""])
    columns = ("products", "bytes more in 8 bits", "nats/token less", "taken")
    return Table("What 8 bits cost and gain, each part by itself", columns, rows)


def _ranges(found: Quantised, keys: Keys) -> Table:
    kinds = [kind for kind in HELD if any(kind == its for its, _ in found.largest)]
    rows: list[list[Cell]] = []
    for layer in sorted({layer for _, layer in found.largest}, key=lambda layer: (layer == OUTPUT, layer)):
        place = "output" if layer == OUTPUT else f"layer {layer}"
        own: Keys = keys | {"context": place}
        cells: list[Cell] = [place]
        for kind in kinds:
            most = found.largest.get((kind, layer))
            cells.append(
                "" if most is None else shown("{:.4g}", Record(f"largest_{kind}", most, "1", "simulated", COMMAND, **own))
            )
        rows.append(cells)
    limits = ["held", *(f"{HELD[kind]:.4g}" for kind in kinds)]
    return Table(
        "Largest magnitudes of the calibration text, as quantised, and what formats hold", ("", *kinds), [*rows, limits]
    )


def _errors(done: Quantisation, keys: Keys) -> Table:
    rows: list[list[Cell]] = []
    of = done.method if done.method != "rtn" else "to nearest"
    for name, choice in done.found.choices.items():
        own: Keys = keys | {"context": name}
        errors = [
            Record("output_error", value, "ratio", "simulated", COMMAND, **(own | {"system": system}))
            for system, value in {"to nearest": choice.nearest, of: choice.chosen}.items()
        ]
        size = Record("tensor_bytes", choice.rounded.bytes, "byte", "derived", COMMAND, **own)
        cells = [shown("{:.4f}", error) for error in errors]
        rows.append([name.removesuffix(".weight"), choice.rounded.format.name, *cells, shown("{:,}", size)])
    columns = ("tensor", "format", *dict.fromkeys(("to nearest", of)), "bytes")
    return Table("Error of results on the calibration text, relative, root mean square", columns, rows)


def largest(found: Quantised) -> str:
    """The largest numbers that FP16 and norms have to hold in a few words."""
    most = {
        kind: max(value for (its, _), value in found.largest.items() if its == kind) for kind in ("residual", "key", "value")
    }
    return ", ".join(f"{kind}s up to {value:.4g}" for kind, value in most.items()) + f" (FP16 keys and values: {HELD['key']:g})"


def rescaled(found: Quantised) -> list[str]:
    """Sentences of what was made smaller."""
    made_up = {"key": "K is divided and Q multiplied", "value": "V is divided and O multiplied"}
    return [
        f"Layer {done.layer}'s {kind}s reach {done.most:.4g}, {done.most / HELD[kind]:.3g} times what FP16 holds: {made_up[kind]} by"
        f" {2**done.power} in every layer, which changes no result."
        for kind, done in found.rescaled.items()
    ]
