"""``skipopu chat``."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator

from sim.asked import refuse_idle_dial
from sim.command.common import (
    add_dial_argument,
    add_model_arguments,
    add_policy_argument,
    console,
    inputs_of,
    load_program,
    warn,
)
from sim.conversation import Conversation
from sim.result import SATURATED
from skipopu.arguments import add_seed, natural, positive, ratio, real, refuse
from skipopu.errors import ProgramError
from skipopu.program.program import Program
from skipopu.program.run import COMPILED, Run
from skipopu.report import write_json
from skipopu.sampling import LEAST, MOST, Sampling
from skipopu.text import NoText

HELP = "/undo takes the last turn back, /clear all of them, /exit or the end of the input ends the conversation, /help says so"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"Reads messages from the terminal or from standard input, a line each, and answers them on the functional engine. {HELP}."
    add_model_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help="message in front of the conversation, in the chat template")
    parser.add_argument(
        "--raw", action="store_true", help="no chat template: messages and answers follow one another as they are"
    )
    parser.add_argument("--max-new", type=positive, default=256, metavar="N", help="tokens of an answer; default 256")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="ends an answer, and is no part of it; may be given again"
    )
    sampling = parser.add_argument_group("sampling", "default greedy: the best token, of equal ones the lowest id")
    sampling.add_argument(
        "--temperature",
        type=real(0, MOST, f"0, or a number from {LEAST:g} to {MOST:g}"),
        default=0.0,
        metavar="T",
        help="draws tokens; default 0, greedy",
    )
    sampling.add_argument("--top-k", type=natural, default=0, metavar="K", help="of the K best; default 0, of all")
    sampling.add_argument("--top-p", type=ratio, default=1.0, metavar="P", help="of the best that have P together; default 1")
    sampling.add_argument(
        "--repetition-penalty",
        type=real(LEAST, MOST, f"a number from {LEAST:g} to {MOST:g}"),
        default=1.0,
        metavar="X",
        help="makes tokens that occurred less likely; default 1",
    )
    add_seed(sampling, "of what is drawn")
    add_policy_argument(parser)
    add_dial_argument(parser)


def messages() -> Iterator[str]:
    """What the user says, a line each."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if stream is sys.stdin else "replace")
    asks = sys.stdin.isatty()
    while True:
        try:
            line = input("> ") if asks else sys.stdin.readline()
        except EOFError:
            return
        if not asks and not line:
            return
        yield line.rstrip("\r\n")


def show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main(args: argparse.Namespace) -> int:
    if args.temperature == 0:
        refuse(args, ["--top-k", "--top-p", "--seed"], "has no effect without --temperature: the best token is taken")
    sampling = Sampling(args.temperature, args.top_k, args.top_p, args.repetition_penalty, args.seed)
    program = load_program(args)
    talk = conversation(args, program, sampling)
    try:
        for message in messages():
            if message == "/exit":
                break
            answer(talk, message, args.max_new)
    finally:
        if args.json is not None:
            turns = [
                {"message": t.message, "text": t.text, "tokens": t.tokens, "prompt": len(t.prompt), "kept": t.kept}
                for t in talk.turns
            ]
            write_json(args.json, "chat", inputs_of(args, program), [], {"turns": turns})
    return 0


def conversation(args: argparse.Namespace, program: Program, sampling: Sampling) -> Conversation:
    """What is asked for, before anything is said."""
    routing = args.policy or COMPILED
    refuse_idle_dial(program, Run((0,), 0, args.dial, routing=routing))
    template = not args.raw and not program.model.byte_level
    if template:
        try:
            program.text.chat("a")
        except NoText:
            raise
        except ProgramError as error:
            raise ProgramError(f"{error}; --raw does without") from None
    stop = tuple(args.stop)
    return Conversation(program, sampling, system=args.system, template=template, stop=stop, routing=routing, dial=args.dial)


def answer(talk: Conversation, message: str, max_new: int) -> None:
    """Does what a line of the user's says."""
    if message in ("/undo", "/clear"):
        taken = talk.undo()
        while message == "/clear" and talk.undo():
            pass
        console.print("taken back" if taken else "nothing was said yet")
    elif message == "/help":
        console.print(HELP)
    elif message:
        try:
            turn = talk.ask(message, max_new, show)
        except ProgramError as error:
            if not sys.stdin.isatty():
                raise
            console.print(str(error), style="yellow")
        else:
            show("\n")
            if turn.saturated:
                warn(SATURATED)
