"""What the simulators' commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compiler.command import COMPILE_OPTIONS, add_compile_arguments, compile_from
from sim import asked
from sim.engine import Watch
from skipopu.arguments import add_json, add_seed, finite, integer, natural, positive, ratio, refuse
from skipopu.errors import ProgramError
from skipopu.policy import WHOLE_RUN
from skipopu.program.file import FILE_NAME
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.shipped import NAMES, path_or_shipped
from skipopu.terminal import console as console
from skipopu.terminal import out as out
from skipopu.text import NoText, Text
from skipopu.text_stream import Stream, continuation


def add_model_arguments(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    help = f"checkpoint directory, directory of a compiled program, or a shipped model: {', '.join(NAMES)}"
    parser.add_argument("model", type=path_or_shipped, nargs="?" if optional else None, help=help)
    add_compile_arguments(parser)
    add_json(parser)


def add_routing_arguments(
    parser: argparse.ArgumentParser, default: str = "", policies: bool = False, seed: str = "of random routing"
) -> None:
    """``seed``: of what ``--seed`` is."""
    routing = parser.add_mutually_exclusive_group()
    routing.add_argument(
        "--skip",
        metavar="RATIO",
        help=f"random routing instead of the routers: R, attn=R,ffn=R, or a .yaml file with ratios per layer{default}",
    )
    routing.add_argument(
        "--skip-trace", type=Path, metavar="FILE", help="replay a .npy of bool (layers, 2, tokens), 1 = execute"
    )
    if policies:
        add_policy_argument(routing)
    add_seed(parser, seed)


def add_mask_arguments(parser: argparse.ArgumentParser, of: str = "") -> argparse._ActionsContainer:
    """Which channels are left out where no thresholds say it, ``of`` what; returns the options of which one is accepted."""
    masks = parser.add_mutually_exclusive_group()
    masks.add_argument(
        "--mask",
        type=ratio,
        metavar="R",
        help=f"share of the input channels that products of generated tokens leave out, drawn by --seed (see docs/masks.md){of}; default no masks",
    )
    masks.add_argument(
        "--mask-trace",
        type=Path,
        metavar="FILE",
        help=f"replay masks that `skipopu run --save-mask-trace` wrote (.safetensors){of}",
    )
    return masks


def add_calibration_arguments(parser: argparse.ArgumentParser, text: str, samples: int) -> None:
    """The text that is calibrated on, under the name ``text``, and the windows of it."""
    parser.add_argument(
        text,
        type=path_or_shipped,
        metavar="FILE",
        help="text to calibrate on, or ids (.npy); default the source of Python's standard library",
    )
    parser.add_argument("--samples", type=positive, default=samples, metavar="N", help=f"windows of it; default {samples}")
    parser.add_argument("--window", type=integer(2), default=256, metavar="TOKENS", help="default 256")
    add_seed(parser, "of the windows' places")


def add_policy_argument(parser: argparse._ActionsContainer) -> None:
    known = "; ".join(f"{name}: {policy.meaning}" for name, policy in WHOLE_RUN.items())
    parser.add_argument(
        "--policy", choices=tuple(WHOLE_RUN), help=f"one rule for every module, whatever the program was compiled with. {known}"
    )


def add_dial_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dial",
        type=finite,
        default=0.0,
        metavar="X",
        help="routing threshold: a module executes when its router's first output exceeds the second by at least X; larger skips"
        " more; default 0. The scale is the model's: in pybyte-1m -100 skips next to nothing, 0 a quarter, 44 half, 107 three quarters."
        " Under --policy norm it is a share of the residual's norm, as 0.05",
    )


def add_run_arguments(parser: argparse.ArgumentParser, prompt: str, max_new: int, seed: str = "of random routing") -> None:
    """``seed``: of what ``--seed`` is."""
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--prompt", default=prompt, metavar="TEXT", help=f"prompt as text; default {prompt!r}")
    asked.add_argument("--tokens", metavar="IDS", help="prompt as comma-separated token ids instead of text")
    parser.add_argument(
        "--chat", action="store_true", help="put the prompt into the checkpoint's chat template, as one user's message"
    )
    parser.add_argument("--max-new", type=natural, default=max_new, metavar="N", help=f"tokens to generate; default {max_new}")
    add_dial_argument(parser)
    add_routing_arguments(parser, policies=True, seed=seed)


def is_compiled(model: Path) -> bool:
    return (model / FILE_NAME).exists()


def load_program(args: argparse.Namespace, logits: bool = False, chunk: int | None = None) -> Program:
    """A compiled program, or a checkpoint compiled as the options say; ``chunk`` widens the target's token chunk."""
    if is_compiled(args.model):
        refuse(args, COMPILE_OPTIONS, f"has no effect on {args.model}, which is compiled already; give the checkpoint instead")
        program = Program.load(args.model)
        if logits and not program.logits:
            raise ProgramError(f"{args.model}: compiled without --logits, which this command needs")
        return program
    return compile_from(args, logits, chunk)


def prompt_of(args: argparse.Namespace, program: Program) -> tuple[int, ...]:
    """Token ids of the prompt, of text or of ``--tokens``."""
    if args.tokens is None:
        return asked.text_ids(program, args.prompt, chat=args.chat)
    refuse(args, ["--chat"], "is of --prompt; token ids are taken as they are")
    try:
        return tuple(int(part) for part in args.tokens.split(","))
    except ValueError:
        raise ProgramError(f"--tokens is {args.tokens!r}; comma-separated integers are needed") from None


def parse_context(text: str) -> tuple[int, int]:
    """(prompt, generated) tokens of ``--context P+G``."""
    prompt, _, new = text.partition("+")
    if not (prompt.isdecimal() and new.isdecimal() and int(prompt) >= 1):
        raise ProgramError(f"--context is {text!r}; accepted: P+G, prompt and generated tokens, as in 128+1024")
    return int(prompt), int(new)


def check_routing(args: argparse.Namespace) -> None:
    """Refuses routing options that would change nothing."""
    if args.skip is None and getattr(args, "acceptance", None) is None and getattr(args, "mask", None) is None:
        refuse(args, ["--seed"], "is of random routing, which --skip asks for")


def run_of(args: argparse.Namespace, program: Program, check: bool = False) -> Run:
    """The run that the options describe, validated against the program."""
    check_routing(args)
    prompt, routing = (
        prompt_of(args, program),
        {
            "skip": args.skip,
            "trace": args.skip_trace,
            "policy": args.policy,
            "seed": args.seed,
        },
    )
    return asked.run_of(program, prompt, args.max_new, **routing, dial=args.dial, check=check, what="--skip")


def inputs_of(args: argparse.Namespace, program: Program | None = None, options: Run | None = None) -> dict[str, Any]:
    """What a command was asked for, its defaults included: every option, and what program and run say in their place."""
    inputs = {k: v for k, v in vars(args).items() if k not in ("command", "given", "json") and v is not None}
    if program is not None:
        if is_compiled(Path(str(args.model))):
            for name in ("history", "prefetch", "mask_prompt"):
                inputs.pop(name, None)
        inputs |= {
            "target": program.machine.name,
            "fingerprint": program.machine.fingerprint,
            "kv": program.kv,
            "context": program.context,
            "group": program.matrices["head"]["group"],
            "weights": program.weights,
        }
    if options is not None:
        inputs |= {"tokens": options.prompt, "prompt_length": len(options.prompt)}
        if args.tokens is not None:
            del inputs["prompt"]
    return inputs


def text_if_known(program: Program) -> Text | None:
    """A program's text; None where it has none, a warning if that is a fault of its tokenizer."""
    try:
        return program.text
    except NoText:
        return None
    except ProgramError as error:
        warn(f"no text: {error}")
        return None


def outputs_of(program: Program, prompt: Sequence[int], tokens: list[int], saturated: bool) -> dict[str, Any]:
    """Generated tokens, their text behind the prompt where it is known, and whether numbers saturated."""
    known = text_if_known(program)
    if program.model.byte_level and max(tokens, default=0) > 255:
        known = None
    return {"tokens": tokens, **({"text": continuation(known, prompt, tokens)} if known else {}), "saturated": saturated}


def warn(text: str) -> None:
    console.print(f"Warning: {text}.", style="yellow", soft_wrap=True)


class Phases(Watch):
    """Hands on what an engine says it does."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show = show

    def say(self, phase: str) -> None:
        self.show(phase)


class Typed(Watch):
    """Streams tokens as text, of models without any as ids."""

    def __init__(self, program: Program) -> None:
        self.byte_level = program.model.byte_level  # their bytes are written as they are
        known = None if self.byte_level else text_if_known(program)
        self.stream = None if known is None else Stream(known)

    def prompt(self, run: Run) -> None:
        self._write(run.prompt)

    def token(self, token: int | None) -> None:
        if token is not None:
            self._write([token])

    def end(self) -> None:
        """Nothing more comes."""
        print("" if self.stream is None else self.stream.end())

    def _write(self, tokens: Sequence[int]) -> None:
        if self.stream is not None:
            sys.stdout.write(self.stream.add(tokens))
        else:
            for token in tokens:
                if self.byte_level and token < 256:
                    sys.stdout.buffer.write(bytes([token]))
                else:
                    sys.stdout.write(f"{token} ")
                sys.stdout.flush()
        sys.stdout.flush()
