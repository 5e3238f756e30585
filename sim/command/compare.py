"""``skipopu compare``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.progress import Progress

from compiler.command import SHAPE_HELP
from compiler.frontend.checkpoint import load
from compiler.pipeline import compile_checkpoint
from sim.command.common import add_routing_arguments, console, inputs_of, out, parse_context
from sim.compare import render
from sim.compare.comparison import compare
from sim.compare.report import report
from sim.estimate import Workload
from sim.functional import engine as functional
from sim.routing import load_trace
from skipopu.arguments import add_json, output_directory, positive, refuse
from skipopu.errors import ProgramError
from skipopu.isa.program import Run
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.report import write_json
from skipopu.shapes import label
from skipopu.shipped import path_or_shipped
from skipopu.terminal import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=path_or_shipped, nargs="?", help="checkpoint directory; its routers decide unless --skip says otherwise"
    )
    parser.add_argument("--shape", metavar="NAME", help=f"an architecture instead: {SHAPE_HELP}")
    parser.add_argument("--target", default="u280", help="target name or machine description (.yaml); default u280")
    parser.add_argument("--context", default="128+1024", metavar="P+G", help="prompt and generated tokens; default 128+1024")
    parser.add_argument(
        "--kv", choices=("dense", "reuse"), default="reuse", help="KV of tokens that skip attention; default reuse"
    )
    parser.add_argument("--routers", type=Path, metavar="FILE", help="router weights of a checkpoint")
    add_routing_arguments(parser, "; default 0.25 for a shape")
    parser.add_argument(
        "--text",
        type=path_or_shipped,
        metavar="FILE",
        help="prompt of a checkpoint's run, its first P bytes; default its heldout.txt",
    )
    parser.add_argument(
        "--measured", type=Path, nargs="+", default=[], metavar="FILE", help="records measured on GPUs, beside those shipped"
    )
    parser.add_argument("--jobs", type=positive, metavar="N", help="processes; default one per core")
    parser.add_argument(
        "-o", "--output", type=output_directory, metavar="DIR", help="write comparison.md, .html, .json and the figures there"
    )
    add_json(parser)


def routers_decide(args: argparse.Namespace, prompt: int, new: int) -> NDArray[np.bool_]:
    """What a byte-level checkpoint's routers decide on the first bytes of a text, by the functional engine."""
    path = args.text or args.model / "heldout.txt"
    try:
        text = path.read_bytes()[:prompt]
    except OSError as error:
        raise ProgramError(
            f"{path}: cannot be read ({error.strerror}); give a prompt with --text, or routing with --skip"
        ) from None
    if len(text) < prompt:
        raise ProgramError(f"{path} has {len(text)} bytes; --context {args.context} needs a prompt of {prompt}")
    checkpoint = load(args.model, args.routers)
    if not checkpoint.config.byte_level:
        raise ProgramError(f"{args.model}: not a byte-level model, so text says no tokens; use --skip or --skip-trace")
    machine = Machine.load(args.target)
    group = min(128, max(machine.weight_lanes, 32))
    program = compile_checkpoint(checkpoint, machine, args.kv, context=prompt + new, group=group)
    with console.status("the checkpoint's routers decide (functional engine)"):
        result = functional.run(program, Run(tuple(text), new))
    if len(result.tokens) < new:
        console.print(f"The model ended its text after {len(result.tokens)} tokens; the rest is routed like its last token.")
    missing = prompt + new - result.routing.shape[2]
    return np.concatenate([result.routing, np.repeat(result.routing[..., -1:], missing, -1)], -1)


def main(args: argparse.Namespace) -> int:
    if (args.model is None) == (args.shape is None):
        raise ProgramError("compare needs a checkpoint directory or --shape NAME, one of them")
    prompt, new = parse_context(args.context)
    if args.shape is not None:
        refuse(args, ["--routers", "--text"], "has no effect on --shape, which has no routers to decide")
    elif args.skip is not None or args.skip_trace is not None:
        refuse(args, ["--routers", "--text"], "has no effect: --skip and --skip-trace replace what routers decide on it")
    if args.skip_trace is not None or (args.shape is None and args.skip is None):
        refuse(args, ["--seed"], "is of random routing, which --skip asks for")
    machine = Machine.load(args.target)
    config: ModelConfig | None = None
    routing = None if args.skip_trace is None else load_trace(args.skip_trace)
    if args.model is not None:
        config = ModelConfig.load(args.model)
        if routing is None and args.skip is None:
            routing = routers_decide(args, prompt, new)
    name = args.model.absolute().name if args.model else args.shape
    skip = "trace" if routing is not None else "0.25" if args.skip is None else args.skip
    workload = Workload(name, prompt, new, skip, args.kv, args.seed)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(escape(f"{name} on {machine.name}"), total=None)
        result = compare(
            machine,
            workload,
            config,
            routing,
            args.measured,
            args.jobs,
            lambda done, of: progress.update(task, completed=done, total=of),
        )
    whole = report(result)
    for table in whole.tables[:3]:
        show(table)
    for line in whole.findings:
        out.print(f"- {line}")
    if args.output:
        for path in render.write(result, whole, args.output):
            print(path)
    if args.json:
        inputs = inputs_of(args) | {
            "model": label(name),
            "target": machine.name,
            "fingerprint": machine.fingerprint,
            "skip": skip,
        }
        write_json(args.json, "compare", inputs, whole.records)
    return 0
