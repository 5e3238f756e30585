"""What the simulators' commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from compiler.command import add_compile_arguments, compile_from
from sim.routing import independent, load_trace, ratios
from skipopu.errors import ProgramError
from skipopu.isa.program import FILE_NAME, Program, Run
from skipopu.shipped import NAMES, path_or_shipped

ENGINES = ("reference", "functional", "timing", "rtl")
# Tables stay readable in logs, where there is no terminal to ask for its width.
console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 118)


def add_model_arguments(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    help = f"checkpoint directory, directory of a compiled program, or a shipped model: {', '.join(NAMES)}"
    parser.add_argument("model", type=path_or_shipped, nargs="?" if optional else None, help=help)
    add_compile_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as records")


def add_run_arguments(parser: argparse.ArgumentParser, prompt: str, max_new: int) -> None:
    parser.add_argument("--prompt", default=prompt, metavar="TEXT", help=f"prompt; default {prompt!r}")
    parser.add_argument("--tokens", metavar="IDS", help="prompt as comma-separated token ids instead of text")
    parser.add_argument("--max-new", type=int, default=max_new, metavar="N", help=f"tokens to generate; default {max_new}")
    parser.add_argument("--dial", type=float, default=0.0, help="routing threshold; larger skips more; default 0")
    routing = parser.add_mutually_exclusive_group()
    routing.add_argument(
        "--skip",
        metavar="RATIO",
        help="random routing instead of the routers: R, attn=R,ffn=R, or a .yaml file with ratios per layer",
    )
    routing.add_argument(
        "--skip-trace", type=Path, metavar="FILE", help="replay a .npy of bool (layers, 2, tokens), 1 = execute"
    )
    parser.add_argument("--seed", type=int, default=0, help="of random routing; default 0")


def load_program(args: argparse.Namespace, logits: bool = False, chunk: int | None = None) -> Program:
    """A compiled program, or a checkpoint compiled as the options say; ``chunk`` widens the target's token chunk."""
    if (args.model / FILE_NAME).exists():
        program = Program.load(args.model)
        if logits and not program.logits:
            raise ProgramError(f"{args.model}: compiled without --logits, which this command needs")
        return program
    return compile_from(args, logits, chunk)


def prompt_of(args: argparse.Namespace, program: Program) -> tuple[int, ...]:
    """Token ids of the prompt: bytes for a byte-level model, else ``--tokens``."""
    if args.tokens is not None:
        try:
            return tuple(int(part) for part in args.tokens.split(","))
        except ValueError:
            raise ProgramError(f"--tokens is {args.tokens!r}; comma-separated integers are needed") from None
    if program.model.vocab_size < 256:
        raise ProgramError(
            f"the vocabulary has {program.model.vocab_size} ids, fewer than bytes; give the prompt with --tokens"
        )
    return tuple(args.prompt.encode())


def parse_context(text: str) -> tuple[int, int]:
    """(prompt, generated) tokens of ``--context P+G``."""
    try:
        prompt, new = (int(part) for part in text.split("+"))
        if prompt < 1 or new < 0:
            raise ValueError
    except ValueError:
        raise ProgramError(f"--context is {text!r}; accepted: P+G, prompt and generated tokens, as in 128+1024") from None
    return prompt, new


def run_of(args: argparse.Namespace, program: Program, check: bool = False) -> Run:
    """The run that the options describe, validated against the program."""
    prompt = prompt_of(args, program)
    total = len(prompt) + args.max_new
    routing: str | NDArray[np.bool_] = "program"
    if args.skip is not None:
        layers = program.model.num_layers
        routing = independent(layers, total, *ratios(args.skip, layers), args.seed)
    elif args.skip_trace is not None:
        routing = load_trace(args.skip_trace)
    options = Run(prompt, args.max_new, args.dial, check, routing)  # type: ignore[arg-type]
    options.validate(program)
    return options


def text_writer(program: Program) -> Callable[[int], None]:
    """Streams tokens of a byte-level model as text, of others as ids."""
    byte_level = program.model.vocab_size == 256

    def write(token: int) -> None:
        if token < 0:
            sys.stdout.write(".")
        elif byte_level:
            sys.stdout.buffer.write(bytes([token]))
        else:
            sys.stdout.write(f"{token} ")
        sys.stdout.flush()

    return write
