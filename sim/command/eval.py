"""``skipopu eval``."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from sim.asked import text_ids
from sim.command.common import add_model_arguments, console, inputs_of, load_program, warn
from sim.functional import engine as functional
from sim.functional.weights import WeightCache
from sim.reference import engine as reference
from sim.result import SATURATED, Computed, logits_of
from skipopu.arguments import integer
from skipopu.errors import ProgramError
from skipopu.isa.program import Program, Run
from skipopu.numerics.profile import EXACT18, PROFILES, Profile
from skipopu.report import Record, write_json
from skipopu.shipped import HELD_OUT, path_or_shipped

# No result depends on the chunk (tested), so a checkpoint is evaluated in larger ones than the target's.
CHUNK = 64


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


def bits(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Sum of -log2 p over targets (n,) under logits (n, vocab)."""
    wide = logits.astype(np.float64)
    top = wide.max(-1, keepdims=True)
    normaliser = top[:, 0] + np.log(np.exp(wide - top).sum(-1))
    return float((normaliser - wide[np.arange(len(targets)), targets]).sum() / math.log(2))


def evaluate(
    program: Program,
    data: bytes,
    engine: str,
    window: int,
    always: bool,
    profile: Profile = PROFILES[EXACT18],
    show: bool = True,
    on_result: Callable[[Computed], None] = lambda result: None,
) -> tuple[float, float]:
    """(bits per byte, executed share) over whole windows of ``data``, first bytes of windows not counted.

    ``profile`` is the functional engine's arithmetic; ``show`` progress; ``on_result`` gets every window's result of that engine.
    """
    windows = [data[i : i + window] for i in range(0, len(data), window)]
    windows = [w for w in windows if len(w) > 1]
    if not windows:
        raise ProgramError("the text has fewer than two bytes")
    model = reference.model_of(program) if engine == "reference" else None
    weights = WeightCache(program.memory, program.machine.weight_lanes)
    total, share, counted = 0.0, 0.0, 0
    with Progress(console=console, transient=True, disable=not show) as progress:
        for part in progress.track(windows, description=f"{engine} engine"):
            ids = np.frombuffer(part, np.uint8).astype(np.int64)
            run = Run(tuple(ids.tolist()), 0, routing="always" if always else "program")
            if model is None:
                result = functional.run(program, run, functional.Options(weights, profile))
                on_result(result)
                logits, executed = logits_of(program, result, len(ids)), result.executed_share
            else:
                out = reference.forward(program, model, torch.from_numpy(ids)[None], run)
                logits, executed = out.logits[0].numpy(), float(out.gates.mean())
            total += bits(logits[:-1], ids[1:])
            share += executed * len(ids)
            counted += len(ids) - 1
    return total / counted, share / sum(map(len, windows))


def main(args: argparse.Namespace) -> int:
    try:
        data = args.text.read_bytes()
    except OSError as error:
        raise ProgramError(f"{args.text}: cannot be read ({error.strerror})") from None
    program = load_program(args, logits=True, chunk=CHUNK)
    text_ids(program, "", "bits per byte need a byte-level model")
    begin = time.perf_counter()
    saturated: list[bool] = []
    value, share = evaluate(
        program,
        data,
        args.engine,
        min(args.window, program.context),
        args.always,
        on_result=lambda result: saturated.append(result.saturated),
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
