"""``skipopu calibrate``."""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from pathlib import Path

from compiler.command import add_lora
from compiler.frontend.masks import MASKS_FILE
from compiler.pipeline import KV_POLICIES
from sim.calibrate.rules import RULES, WINA
from sim.calibrate.work import GREEDY, MOST, RATIOS, Calibration, Measured, Request, carried_out
from sim.command.common import add_calibration_arguments, inputs_of
from sim.reference.threads import few_threads
from skipopu.arguments import add_json, output_file, real
from skipopu.masks import ATTENTION, ATTENTION_OUTPUT, FFN, FFN_INNER
from skipopu.model_config import ModelConfig
from skipopu.report import Cell, Keys, Record, Table, shown, write_json
from skipopu.shipped import HELD_OUT, NAMES, path_or_shipped
from skipopu.terminal import Following, console, show

COMMAND = "skipopu calibrate"
READERS = {ATTENTION: "Q, K, V", ATTENTION_OUTPUT: "O", FFN: "gate, up", FFN_INNER: "down"}
share = real(0, MOST, f"a share above 0, up to {MOST}", open_at_least=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=path_or_shipped, help=f"checkpoint directory, or a shipped model: {', '.join(NAMES)}")
    parser.add_argument(
        "--mask",
        type=share,
        required=True,
        metavar="R",
        help="share of the weights behind masked inputs that a token leaves out",
    )
    parser.add_argument(
        "--rule", choices=RULES, default=WINA, help="; ".join(f"{n}: {text}" for n, text in RULES.items()) + f"; default {WINA}"
    )
    parser.add_argument(
        "--ratios",
        choices=RATIOS,
        default=GREEDY,
        help="; ".join(f"{n}: {text}" for n, text in RATIOS.items()) + f"; default {GREEDY}",
    )
    parser.add_argument(
        "-o", "--output", type=output_file, metavar="FILE", help=f"thresholds; default {MASKS_FILE} beside the checkpoint"
    )
    parser.add_argument("--force", action="store_true", help="write a file anew that is there already")
    parser.add_argument("--routers", type=Path, metavar="FILE", help="router weights; default routers.* of the checkpoint")
    add_lora(parser)
    add_calibration_arguments(parser, "--text", 64)
    parser.add_argument(
        "--held-out",
        type=path_or_shipped,
        default=HELD_OUT,
        metavar="FILE",
        help="text, or ids (.npy), that losses are measured on; default the shipped sample",
    )
    parser.add_argument("--kv", choices=KV_POLICIES, default="reuse", help="KV of tokens that skip attention; default reuse")
    parser.add_argument("--always", action="store_true", help="execute every module")
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
    tables = report(done, args)
    for table in tables:
        show(table)
    seconds = time.perf_counter() - begin
    print(f"{done.file}: thresholds of {len(done.active)} inputs by {args.rule}, {seconds:.0f} s")
    if args.json:
        records = [record for table in tables for record in table.records]
        records.append(Record("wall_s", round(seconds, 2), "s", "measured", COMMAND, model=args.model.name))
        window = min(args.window, done.config.max_positions)
        ratios = {f"model.layers.{layer}.{own}": round(ratio, 4) for (layer, own), ratio in done.ratios.items()}
        write_json(args.json, "calibrate", inputs_of(args) | {"window": window}, records, {"file": done.file, "ratios": ratios})
    return 0 if all(math.isfinite(one.loss.nats) for one in (done.before, done.after)) else 1


def report(done: Calibration, args: argparse.Namespace) -> list[Table]:
    """Tables of losses and bytes, and of what each input leaves out."""
    kv = "all executed" if args.always else str(args.kv)
    keys: Keys = {"engine": "reference", "model": args.model.name, "kv": kv}
    source = f"{COMMAND}, {args.held_out.name}"
    rows = [_measured(name, one, keys, source) for name, one in {"without": done.before, "with": done.after}.items()]
    columns = ("masks", "nats/token", "bits/byte", "executed share", "active share of channels", "bytes of weights/token")
    note = "Masks apply to all tokens here. Bytes are of layers and head: codes of active channels, every scale, thresholds."
    losses = Table(f"Loss of {args.held_out.name}, reference engine, kv {kv}", columns, rows, note)
    inner: list[list[Cell]] = []
    for layer in range(done.config.num_layers):
        cells: list[Cell] = [str(layer)]
        for own in READERS:
            own_keys: Keys = keys | {"context": f"layer {layer}, {own}", "system": args.rule}
            record = Record("active_channels_share", done.active[layer, own], "ratio", "simulated", source, **own_keys)
            cells.append(shown(lambda value: f"{1 - value:.1%}", record))
        inner.append(cells)
    return [losses, Table("Channels left out, by layer and the products that read them", ("layer", *READERS.values()), inner)]


def _measured(name: str, one: Measured, keys: Keys, source: str) -> list[Cell]:
    own: Keys = keys | {"system": f"{name} masks"}

    def cell(form: str, record: str, value: float | None, unit: str) -> Cell:
        return "-" if value is None else shown(form, Record(record, value, unit, "simulated", source, **own))

    return [
        name,
        cell("{:.4f}", "nats_per_token", one.loss.nats_per_token, "nat/token"),
        cell("{:.4f}", "bits_per_byte", one.loss.bits_per_byte, "bit/byte"),
        cell("{:.3f}", "executed_share", one.loss.executed_share, "ratio"),
        cell("{:.3f}", "active_channels_share", one.active_channels_share, "ratio"),
        cell("{:,.0f}", "weight_bytes_read", one.bytes, "byte/token"),
    ]
