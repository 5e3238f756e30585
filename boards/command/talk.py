"""``skipopu host --interactive``: a conversation on a board."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from boards.command.figures import Figures
from sim.command.chat import add_message_arguments, answer, messages, sampling_asked
from sim.command.generate import SAMPLED, add_sampling_arguments, add_speculation_arguments, tell_speculation
from sim.conversation import Conversation, Turn
from sim.generation import Generation
from sim.session import Session
from skipopu.arguments import refuse
from skipopu.errors import SkipopuError
from skipopu.report import Record
from skipopu.sampling import Sampling

OF_RUNS = ["--prompt", "--tokens", "--chat", "--skip", "--skip-trace"]
OF_TALKS = [
    *("--system", "--raw", "--stop", "--temperature", "--repetition-penalty", "--speculate", "--drafts"),
    *(name for name in SAMPLED if name != "--seed"),  # which is of --skip too
]


def add_talk_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that :data:`OF_TALKS` lists."""
    add_message_arguments(parser.add_argument_group("conversation", "with --interactive; sampling and speculation as well"))
    add_sampling_arguments(parser, seed=False)
    add_speculation_arguments(parser)


def talk_asked(args: argparse.Namespace) -> Sampling | None:
    """How tokens are chosen in a conversation; None where none is asked for.

    Raises:
        SkipopuError: an option that is of the other, or that excludes one that was given.
    """
    if not args.interactive:
        refuse(args, OF_TALKS, "is of --interactive, which was not given")
        return None
    refuse(
        args,
        OF_RUNS,
        "has no effect: --interactive is a conversation, whose messages are read from the terminal or standard input",
    )
    if not args.max_new:
        raise SkipopuError("--max-new is 0; an answer has 1 token or more")
    return sampling_asked(args)


class Compared:
    """Answers of the functional engine beside a board's, without drafts."""

    def __init__(self, talk: Conversation) -> None:
        own = talk.generation
        self.generation = Generation(Session(talk.program), own.sampling, None, own.routing, own.dial)

    def agrees(self, turn: Turn) -> bool:
        """Whether it says the same, as far as the answer goes."""
        return tuple(self.generation.tokens(turn.prompt, len(turn.tokens))) == turn.tokens


def converse(talk: Conversation, figures: Figures, max_new: int, check: bool, tell: Callable[[list[Record]], None]) -> bool:
    """Answers messages until their end; ``tell`` gets the records of each. Whether the functional engine, where there is a ``check``,
    agrees."""
    generation, agree = talk.generation, True
    cycles = list[int]()
    generation.see = lambda run, result: cycles.append((result.counters or {}).get("CYCLES", 0))
    beside = Compared(talk) if check else None
    tokens = 0
    for message in messages():
        begin = time.perf_counter()
        turn = answer(talk, message, max_new)
        seconds = time.perf_counter() - begin
        took = sum(cycles)
        cycles.clear()
        if turn is None:
            continue
        tell(figures.took(f"{len(turn.prompt)} prompt ({turn.kept} kept)", len(turn.tokens), took, seconds))
        tokens += len(turn.tokens)
        if beside is not None:
            equal = beside.agrees(turn)
            tell(figures.compared(equal))
            agree &= equal
    if generation.lookup is not None and generation.runs:
        tell(tell_speculation(generation, tokens, dict(figures.keys), figures.kind))
    return agree
