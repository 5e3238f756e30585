"""``skipopu chat``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import io
import sys
from collections.abc import Iterator
from typing import Any

from sim.command.common import (
    add_dial_argument,
    add_model_arguments,
    add_policy_argument,
    console,
    inputs_of,
    load_program,
    warn,
)
from sim.command.generate import (
    add_sampling_arguments,
    add_speculation_arguments,
    lookup_of,
    sampling_of,
    tell_speculation,
)
from sim.conversation import Conversation, NoRoom, Turn
from sim.engine import Instance
from sim.engines import KEEPING
from sim.result import SATURATED
from skipopu.arguments import positive, refuse
from skipopu.errors import ProgramError, SkipopuError
from skipopu.program.program import Program
from skipopu.report import Record, write_json
from skipopu.sampling import Sampling
from skipopu.text import NoText

HELP = (
    "/undo takes the last turn back, /clear all of them, /exit or the end of the input ends the conversation, // begins a message with a"
    " slash, an interrupt ends an answer"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"Reads messages from the terminal or from standard input, a line each, and answers them. {HELP}."
    add_model_arguments(parser)
    parser.add_argument("--engine", choices=KEEPING, default="functional", help="default functional")
    parser.add_argument("--max-new", type=positive, default=128, metavar="N", help="tokens of an answer; default 128")
    add_message_arguments(parser)
    add_sampling_arguments(parser)
    add_speculation_arguments(parser)
    add_policy_argument(parser)
    add_dial_argument(parser)


def add_message_arguments(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--system", metavar="TEXT", help="message in front of the conversation, in the chat template")
    parser.add_argument(
        "--raw", action="store_true", help="no chat template: messages and answers follow one another as they are"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="ends an answer, and is no part of it; may be given again"
    )


def messages() -> Iterator[str]:
    """What the user says, a line each, until that ends the conversation."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if stream is sys.stdin else "replace")
    asks = sys.stdin.isatty()
    if asks:
        console.print(HELP)
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")  # makes lines editable
    while True:
        try:
            line = input("> ") if asks else sys.stdin.readline()
        except EOFError:
            return
        if not asks and not line:
            return
        if line.strip() == "/exit":
            return
        yield line.rstrip("\r\n")


def show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main(args: argparse.Namespace) -> int:
    sampling = sampling_asked(args)
    computed = args.engine != "functional" and not sampling.greedy
    program = load_program(args, logits=computed)
    talk = conversation(args, program, sampling, args.engine)
    try:
        for message in messages():
            answer(talk, message, args.max_new)
    finally:
        talk.close()
        keys: dict[str, Any] = {"engine": args.engine, "target": program.machine.name, "model": program.source["checkpoint"]}
        tokens, records = sum(len(turn.tokens) for turn in talk.turns), list[Record]()
        if talk.generation.runs and args.speculate is not None:
            records = tell_speculation(talk.generation, tokens, keys)
        if args.json is not None:
            write_json(args.json, "chat", inputs_of(args, program), records, {"turns": turns_of(talk)})
    return 0


def sampling_asked(args: argparse.Namespace) -> Sampling:
    """What the options say; refuses those that exclude one another."""
    if args.raw:
        refuse(args, ["--system"], "stands in the chat template, which --raw leaves out")
    return sampling_of(args)


def conversation(args: argparse.Namespace, program: Program, sampling: Sampling, engine: str | Instance) -> Conversation:
    """What is asked for, before anything is said."""
    template = not args.raw and not program.model.byte_level
    if template:
        try:
            program.text.chat("a")
        except NoText:
            raise
        except ProgramError as error:
            raise ProgramError(f"{error}; --raw does without") from None
    return Conversation(
        program,
        sampling,
        system=args.system,
        template=template,
        stop=args.stop,
        policy=args.policy,
        dial=args.dial,
        engine=engine,
        lookup=lookup_of(args, program),
    )


def turns_of(talk: Conversation) -> list[dict[str, Any]]:
    """What was said, for a file."""
    return [dataclasses.asdict(turn) | {"prompt": len(turn.prompt)} for turn in talk.turns]


def answer(talk: Conversation, message: str, max_new: int) -> Turn | None:
    """Does what a line of the user's says; the turn, if it is one."""
    terminal, command = sys.stdin.isatty(), message.strip()
    if command in ("/undo", "/clear"):
        taken = talk.undo()
        while command == "/clear" and talk.undo():
            pass
        console.print(f"{command}: {'taken back' if taken else 'nothing was said yet'}")
    elif command.startswith("/") and not command.startswith("//"):
        console.print(HELP if command == "/help" else f"{command} is no command: {HELP}")
    elif command:
        try:
            turn = talk.ask(message.replace("//", "/", 1) if command.startswith("//") else message, max_new, show)
        except SkipopuError as error:
            if not terminal:
                raise
            console.print(f"{error}{': /undo and /clear make room' * isinstance(error, NoRoom)}", style="yellow")
            return None
        show("\n")
        if turn.ended == "interrupted" and not terminal:
            raise KeyboardInterrupt
        if turn.ended == "context":
            warn(f"the program's context of {talk.program.context} tokens ended the answer: /undo and /clear make room")
        if turn.saturated:
            warn(SATURATED)
        return turn
    return None
