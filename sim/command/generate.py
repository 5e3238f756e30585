"""What commands that generate with a session share: options of sampling and of speculation, what they come to."""

from __future__ import annotations

import argparse
from typing import Any

from sim.command.common import console
from sim.generation import Generation
from skipopu.arguments import add_seed, integer, natural, real, refuse
from skipopu.errors import ProgramError
from skipopu.lookup import MOST as MOST_DRAFTS
from skipopu.lookup import Lookup
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.report import Record
from skipopu.sampling import LEAST, MOST, Sampling

SAMPLED = ["--top-k", "--top-p", "--seed"]


def add_sampling_arguments(parser: argparse.ArgumentParser, seed: bool = True) -> None:
    """``seed``: ``--seed`` is declared too; a command has one."""
    sampling = parser.add_argument_group("sampling", "default greedy: the best token, of equal ones the lowest id")
    sampling.add_argument(
        "--temperature",
        type=real(0, MOST, f"0, or a number from {LEAST:g} to {MOST:g}"),
        default=0.0,
        metavar="T",
        help="draws tokens; default 0, greedy",
    )
    sampling.add_argument("--top-k", type=natural, default=0, metavar="K", help="of the K best; default 0, of all")
    sampling.add_argument(
        "--top-p",
        type=real(0, 1, "a ratio above 0, up to 1", open_at_least=True),
        default=1.0,
        metavar="P",
        help="of the best that have P together; default 1",
    )
    sampling.add_argument(
        "--repetition-penalty",
        type=real(LEAST, MOST, f"a number from {LEAST:g} to {MOST:g}"),
        default=1.0,
        metavar="X",
        help="makes tokens that occurred less likely; default 1",
    )
    if seed:
        add_seed(sampling, "of what is drawn")


def sampling_of(args: argparse.Namespace) -> Sampling:
    """What the options say."""
    if args.temperature == 0:
        refuse(args, SAMPLED, "has no effect without --temperature: the best token is taken")
    return Sampling(args.temperature, args.top_k, args.top_p, args.repetition_penalty, args.seed)


def add_speculation_arguments(parser: argparse.ArgumentParser) -> None:
    speculation = parser.add_argument_group(
        "speculation", "several tokens at once, where a draft says what the model chooses; no token changes"
    )
    speculation.add_argument(
        "--speculate", choices=("lookup",), help="drafts are what followed where the last tokens stood before (prompt lookup)"
    )
    speculation.add_argument(
        "--drafts",
        type=integer(1, MOST_DRAFTS),
        metavar="N",
        help="tokens of a draft at most; default as many as are multiplied while memory brings the weights anyway",
    )


def drafts_of(args: argparse.Namespace, machine: Machine) -> int:
    """How many drafted tokens a run has; raises ProgramError where none is free and nobody says, and for more than a chunk has room for."""
    if args.drafts is not None and args.drafts >= machine.tokens:
        raise ProgramError(
            f"--drafts is {args.drafts}; machine {machine.name} takes {machine.tokens} tokens at once, one of which is known"
        )
    if args.drafts is None and machine.free_tokens < 2:
        raise ProgramError(
            f"machine {machine.name} takes {machine.tokens} tokens at once on {machine.ports} ports: a second one is not free; accepted:"
            " --drafts N all the same, or another machine"
        )
    return int(args.drafts or machine.free_tokens - 1)


def lookup_of(args: argparse.Namespace, program: Program) -> Lookup | None:
    """What makes drafts, as the options say."""
    if args.speculate is None:
        refuse(args, ["--drafts"], "is of --speculate, which was not given")
        return None
    args.drafts = drafts_of(args, program.machine)  # what it is by default is told with the figures
    return Lookup(args.drafts)


def tell_speculation(generation: Generation, tokens: int, keys: dict[str, Any], kind: str = "simulated") -> list[Record]:
    """Says how many drafts were right; as records."""
    accepted, drafted, runs = generation.accepted, generation.drafted, generation.runs
    share = accepted / drafted if drafted else 0.0
    console.print(
        f"{tokens} tokens in {runs} runs through the model: of {drafted} drafted tokens {accepted} were accepted, {share:.0%}"
    )
    return [
        Record("runs", runs, "run", kind, "prompt lookup", **keys),
        Record("drafted_tokens", drafted, "token", kind, "prompt lookup", **keys),
        Record("accepted_tokens", accepted, "token", kind, "prompt lookup", **keys),
    ]
