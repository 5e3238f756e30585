"""``skipopu compare``."""

from __future__ import annotations

import argparse
from pathlib import Path

from compiler.command import SHAPE_HELP, add_lora
from sim.command.common import add_mask_arguments, add_routing_arguments, console, inputs_of, out, parse_context
from sim.compare import render
from sim.compare.report import report
from sim.compare.subject import SHAPE_SKIP, compare_model
from skipopu.arguments import add_json, output_directory, positive, refuse
from skipopu.errors import ProgramError
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.report import write_json
from skipopu.shipped import path_or_shipped
from skipopu.terminal import Following, show

PROMPT, NEW = 128, 1024  # tokens, where nothing is said


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        type=path_or_shipped,
        nargs="?",
        help="checkpoint directory, or a shipped model; its routers decide unless --skip says otherwise",
    )
    parser.add_argument("--shape", metavar="NAME", help=f"an architecture instead: {SHAPE_HELP}")
    parser.add_argument("--target", default="u280", help="target name or machine description (.yaml); default u280")
    parser.add_argument(
        "--context",
        metavar="P+G",
        help=f"prompt and generated tokens; default {PROMPT}+{NEW}, of a checkpoint as many as its context has room for",
    )
    parser.add_argument(
        "--kv", choices=("dense", "reuse"), default="reuse", help="KV of tokens that skip attention; default reuse"
    )
    parser.add_argument("--routers", type=Path, metavar="FILE", help="router weights of a checkpoint")
    add_lora(parser)
    add_routing_arguments(parser, f"; default {SHAPE_SKIP} for a shape")
    add_mask_arguments(parser).add_argument(
        "--masks",
        type=Path,
        metavar="FILE",
        help="thresholds that mask a checkpoint's channels on its text, where its routers decide",
    )
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


def main(args: argparse.Namespace) -> int:
    if (args.model is None) == (args.shape is None):
        raise ProgramError("compare needs a checkpoint directory or --shape NAME, one of them")
    if args.context is None:
        most = PROMPT + NEW if args.shape is not None else min(PROMPT + NEW, ModelConfig.load(args.model).max_positions)
        args.context = f"{min(PROMPT, most // 4)}+{most - min(PROMPT, most // 4)}"
    prompt, new = parse_context(args.context)
    deciding = ["--routers", "--lora", "--text", "--masks"]
    if args.shape is not None:
        refuse(args, deciding, "has no effect on --shape, which has no routers to decide")
    elif args.skip is not None or args.skip_trace is not None:
        refuse(args, deciding, "has no effect: --skip and --skip-trace replace what routers decide on it")
    drawn = (args.mask, args.mask_trace, args.masks) != (None, None, None)  # at least masks of the run without skipping
    if not drawn and (args.skip_trace is not None or (args.shape is None and args.skip is None)):
        refuse(args, ["--seed"], "is of random routing, which --skip asks for")
    machine = Machine.load(args.target)
    subject: Path | str = args.model or vars(args)["shape"]
    with Following() as progress:
        task = progress.add_task(f"{Path(subject).absolute().name} on {machine.name}", total=None)
        result = compare_model(
            subject,
            machine,
            prompt,
            new,
            kv=args.kv,
            skip=args.skip,
            trace=args.skip_trace,
            seed=args.seed,
            mask=args.mask,
            mask_trace=args.mask_trace,
            masks=args.masks,
            routers=args.routers,
            lora=args.lora,
            text=args.text,
            measured=args.measured,
            workers=args.jobs,
            say=lambda done, of: progress.update(task, completed=done, total=of),
            remark=console.print,
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
            "model": result.model,
            "target": machine.name,
            "fingerprint": machine.fingerprint,
            "skip": result.workload.skip,
        }
        if result.masked:
            inputs["masked"] = result.masked_share
        write_json(args.json, "compare", inputs, whole.records)
    return 0
