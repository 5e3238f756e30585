"""``skipopu eval``."""

from __future__ import annotations

import argparse
import math
import time

from rich.progress import Progress

from sim.asked import text_ids
from sim.command.common import add_model_arguments, console, inputs_of, load_program, warn
from sim.evaluation import CHUNK, evaluate
from sim.result import SATURATED
from skipopu.arguments import integer
from skipopu.errors import ProgramError
from skipopu.report import Record, write_json
from skipopu.shipped import HELD_OUT, path_or_shipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--text",
        type=path_or_shipped,
        default=HELD_OUT,
        metavar="FILE",
        help="text to predict, byte by byte; default the shipped sample",
    )
    parser.add_argument("--engine", choices=("functional", "reference"), default="functional", help="default functional")
    parser.add_argument("--window", type=integer(2), default=256, metavar="TOKENS", help="each window starts cold; default 256")
    parser.add_argument("--always", action="store_true", help="execute every module")


def main(args: argparse.Namespace) -> int:
    try:
        data = args.text.read_bytes()
    except OSError as error:
        raise ProgramError(f"{args.text}: cannot be read ({error.strerror})") from None
    program = load_program(args, logits=True, chunk=CHUNK)
    text_ids(program, "", "bits per byte need a byte-level model")
    begin = time.perf_counter()
    saturated: list[bool] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"{args.engine} engine", total=len(data))
        value, share = evaluate(
            program,
            data,
            args.engine,
            min(args.window, program.context),
            args.always,
            on_result=lambda result: saturated.append(result.saturated),
            say=lambda done: progress.update(task, completed=done),
        )
    seconds = time.perf_counter() - begin
    print(
        f"{value:.4f} bits per byte over {len(data)} bytes, executed share {share:.3f}, {args.engine} engine, kv {program.kv},"
        f" {len(data) / seconds:.0f} tokens/s"
    )
    overflow = any(saturated) or not math.isfinite(value)
    if overflow:
        warn(SATURATED)
    if args.json:
        keys = {"engine": args.engine, "target": program.machine.name, "model": program.source["checkpoint"], "kv": program.kv}
        source = f"skipopu eval, {args.text.name}"
        records = [
            Record("bits_per_byte", value, "bit/byte", "simulated", source, **keys),
            Record("executed_share", share, "ratio", "simulated", source, **keys),
            Record("wall_s", round(seconds, 2), "s", "measured", source, **keys),
        ]
        write_json(args.json, "eval", inputs_of(args, program) | {"bytes": len(data)}, records, {"saturated": overflow})
    return 0
