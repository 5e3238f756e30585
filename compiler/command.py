"""``skipopu compile``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from compiler.follow import unseen
from compiler.frontend.checkpoint import Checkpoint, load
from compiler.frontend.masks import MASKS_FILE
from compiler.frontend.policies import Source
from compiler.frontend.shapes import LINEAR, ROUTERS, outline
from compiler.pipeline import KV_POLICIES, WEIGHT_FORMATS, compile_checkpoint
from skipopu.arguments import add_json, natural, output_directory, positive, refuse
from skipopu.errors import ProgramError
from skipopu.machine.config import Machine
from skipopu.machine.files import target_names
from skipopu.policy import MODULES, WHOLE_RUN, Weighs
from skipopu.program.listing import listing
from skipopu.program.program import Program
from skipopu.report import Record, write_json
from skipopu.shapes import SHAPES
from skipopu.shipped import NAMES, path_or_shipped
from skipopu.terminal import Following

MASK_OPTIONS = ("--masks", "--no-masks", "--mask-prompt")
COMPILE_OPTIONS = (
    "--target",
    "--routers",
    "--lora",
    *MASK_OPTIONS,
    "--policies",
    "--kv",
    "--context",
    "--group",
    "--history",
    "--prefetch",
    "--no-prefetch",
    "--weights",
)
SHAPE_HELP = f"{', '.join(SHAPES)}, or a config.json or its directory"


def add_lora(parser: argparse.ArgumentParser) -> None:
    """The option of the commands that read a checkpoint's weights."""
    parser.add_argument(
        "--lora", type=Path, metavar="DIR", help="a PEFT adapter (LoRA, DoRA) to merge into the model's weights"
    )


def add_masks(parser: argparse.ArgumentParser) -> None:
    """Options of the commands that compile a checkpoint: who masks its input channels, and when."""
    masks = parser.add_mutually_exclusive_group()
    masks.add_argument(
        "--masks",
        type=Path,
        metavar="FILE",
        help=f"thresholds that mask input channels of products (see docs/masks.md); default {MASKS_FILE} of the checkpoint",
    )
    masks.add_argument("--no-masks", dest="masks", action="store_false", default=None, help="mask no channels")
    parser.add_argument(
        "--mask-prompt", action="store_true", help="mask channels of the prompt's tokens too, not of generated ones only"
    )


def add_compile_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that decide what is compiled, with one meaning in every command."""
    parser.add_argument("--target", default="tiny", help="target name or machine description (.yaml); default %(default)s")
    parser.add_argument(
        "--routers",
        type=Path,
        metavar="FILE",
        help="router weights, in place of any that the checkpoint has; default those of its model.safetensors or routers.safetensors;"
        f" with --shape their kind: {', '.join(ROUTERS)}; default {LINEAR}",
    )
    add_lora(parser)
    add_masks(parser)
    parser.add_argument(
        "--policies",
        type=Path,
        metavar="FILE",
        help="who decides what is skipped, per layer, module and phase (.yaml or .json, see docs/policies.md); default the routers",
    )
    parser.add_argument("--kv", choices=KV_POLICIES, default="reuse", help="KV of tokens that skip attention; default reuse")
    parser.add_argument(
        "--context", type=positive, metavar="TOKENS", help="largest number of tokens; default what the machine holds"
    )
    parser.add_argument(
        "--group",
        type=positive,
        metavar="N",
        help="weights per scale; default the model's weight_group, or the group of a quantised file",
    )
    parser.add_argument(
        "--history",
        type=natural,
        metavar="TOKENS",
        help="tokens whose entries the KV history buffer keeps; default what it holds",
    )
    parser.add_argument(
        "--prefetch",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fill the KV history buffer ahead while no weights are read; default yes",
    )
    parser.add_argument(
        "--weights",
        choices=WEIGHT_FORMATS,
        help="weight format, one of the machine's; default the file's, product by product: int8 or int4z where it holds such integers and the machine has the format, else int4",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        type=path_or_shipped,
        nargs="?",
        help=f"checkpoint directory (config.json, *.safetensors), or {' or '.join(NAMES)}",
    )
    add_compile_arguments(parser)
    parser.add_argument(
        "--shape", metavar="NAME", help=f"an architecture without weights instead: listing and report; {SHAPE_HELP}"
    )
    parser.add_argument("--logits", action="store_true", help="store the logits of every position")
    parser.add_argument(
        "-o", "--output", type=output_directory, required=True, help="directory for program.skpu, listing.txt, report.json"
    )
    add_json(parser, "write the report there too")


def compiled(args: argparse.Namespace, checkpoint: Checkpoint, machine: Machine, **options: Any) -> Program:
    """As :func:`compile_checkpoint`; where nobody asked for a target, a refusal names those that take the model.

    Raises:
        ProgramError: the model does not fit ``machine``.
    """
    try:
        return compile_checkpoint(checkpoint, machine, **options)
    except ProgramError as error:
        if "--target" in args.given:
            raise
        shape, asked = dataclasses.replace(checkpoint, outline=True), options | {"follow": unseen}
        others = [name for name in target_names() if _takes(shape, Machine.load(name), asked)]
        if not others:
            raise
        raise ProgramError(f"{error}; the model fits --target {' or '.join(others)}") from None


def _takes(shape: Checkpoint, machine: Machine, options: dict[str, Any]) -> bool:
    try:
        compile_checkpoint(shape, machine, **options)
    except ProgramError:
        return False
    return True


def compile_as(args: argparse.Namespace, checkpoint: Checkpoint, machine: Machine, logits: bool) -> Program:
    """Compiles ``checkpoint`` as the options say."""
    with Following() as progress:
        program = compiled(
            args,
            checkpoint,
            machine,
            kv=args.kv,
            logits=logits,
            context=args.context,
            group=args.group,
            weights=args.weights,
            history=args.history,
            prefetch=args.prefetch,
            policies=policies_asked(args),
            mask_prompt=args.mask_prompt,
            follow=progress.follow,
        )
    for sentence in program.source["warnings"]:
        print(f"warning: {sentence}", file=sys.stderr)
    return program


def policies_asked(args: argparse.Namespace) -> Source | None:
    """What a program is to be compiled with: it computes what its policies weigh, for the whole run's one too."""
    asked = WHOLE_RUN.get(getattr(args, "policy", None) or "")
    if args.policies is None and asked is not None and asked.weighs is Weighs.NORM:
        return dict.fromkeys(MODULES, asked.name)
    return args.policies


def outline_of(args: argparse.Namespace) -> Checkpoint:
    """The architecture of ``--shape``, with the kind of routers that ``--routers`` says."""
    kind = LINEAR if args.routers is None else str(args.routers)
    if kind not in ROUTERS:
        raise ProgramError(f"--routers is {kind!r}; accepted with --shape: {', '.join(ROUTERS)}")
    return outline(args.shape, kind)


def compile_from(args: argparse.Namespace, logits: bool, chunk: int | None = None) -> Program:
    """Compiles ``args.model`` as the options say.

    ``chunk`` replaces the target's tokens per chunk, buffers growing with it and memory without a limit: no machine that is built, with
    the same results.
    """
    machine, checkpoint = Machine.load(args.target), load(args.model, args.routers, args.lora, args.masks)
    if chunk is not None:
        machine = dataclasses.replace(machine.with_chunk(chunk), memory_bytes=0)
    return compile_as(args, checkpoint, machine, logits)


def records_of(program: Program) -> list[Record]:
    """Sizes of a compiled program."""
    keys = {"target": program.machine.name, "model": program.source["checkpoint"], "kv": program.kv}
    source = "skipopu compile"
    records = [
        Record("instructions", len(program.instructions), "instruction", "derived", source, **keys),
        Record("port_bytes", program.port_bytes, "byte", "derived", source, **keys),
    ]
    records += [Record(f"{name}_bytes", r.size, "byte", "derived", source, **keys) for name, r in program.regions.items()]
    return records


def main(args: argparse.Namespace) -> int:
    if (args.model is None) == (args.shape is None):
        raise ProgramError("compile needs a checkpoint directory or --shape NAME, one of them")
    if args.shape is not None:
        refuse(args, ["--lora", *MASK_OPTIONS], "has no effect on --shape, which has no weights")
        refuse(args, ["--policies"], "has no effect on --shape, which is not run")
        machine = Machine.load(args.target)
        program = compile_as(args, outline_of(args), machine, args.logits)
        args.output.mkdir(parents=True, exist_ok=True)
        path = args.output / "listing.txt"
    else:
        program = compile_from(args, args.logits)
        path = program.save(args.output)
    (args.output / "listing.txt").write_text(listing(program))
    inputs = {
        "model": args.model if args.shape is None else args.shape,
        "lora": args.lora,
        "target": args.target,
        "kv": args.kv,
        "context": program.context,
        "group": args.group,
        "weights": program.weights,
        "policies": args.policies,
        "masks": args.masks,
        "mask_prompt": args.mask_prompt,
        "history": args.history,
        "prefetch": args.prefetch,
    }
    for report in filter(None, (args.output / "report.json", args.json)):
        write_json(report, "compile", inputs, records_of(program))
    print(
        f"{path}: {len(program.instructions)} instructions, {program.port_bytes} bytes in each of {program.machine.ports} ports,"
        f" context {program.context}, kv {program.kv}"
    )
    return 0
