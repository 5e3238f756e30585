"""``skipopu eval``."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np

from sim.asked import read_ids, refuse_idle_dial
from sim.command.common import (
    add_dial_argument,
    add_model_arguments,
    add_policy_argument,
    inputs_of,
    is_compiled,
    load_program,
    warn,
)
from sim.evaluation import CHUNK, evaluate, windows_of
from sim.result import SATURATED, share_of
from skipopu.arguments import integer
from skipopu.errors import ProgramError
from skipopu.isa.registers import MASK_PROMPT, Config
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.policy import ALWAYS
from skipopu.program.program import Program
from skipopu.program.run import COMPILED, Run, require_windows
from skipopu.report import Record, write_json
from skipopu.shipped import HELD_OUT, path_or_shipped
from skipopu.terminal import Following
from skipopu.text import NoText, Passage, carried, text_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--text", type=path_or_shipped, default=HELD_OUT, metavar="FILE", help="text to predict; default the shipped sample"
    )
    given.add_argument(
        "--tokens", type=Path, metavar="FILE", help="token ids to predict instead: .npy, a JSON list, or numbers"
    )
    parser.add_argument("--engine", choices=("functional", "reference"), default="functional", help="default functional")
    parser.add_argument("--window", type=integer(2), default=256, metavar="TOKENS", help="each window starts cold; default 256")
    decided = parser.add_mutually_exclusive_group()
    decided.add_argument("--always", action="store_true", help="execute every module, as --policy always")
    add_policy_argument(decided)
    add_dial_argument(parser)


def passage_of(args: argparse.Namespace, program: Program | None) -> Passage:
    """What is to be predicted; looked at before anything is compiled."""
    config = program.model if program is not None else ModelConfig.load(args.model)
    if args.tokens is not None:
        ids = read_ids(args.tokens, config.vocab_size)
        return Passage(ids, np.ones(len(ids), np.int64) if config.byte_level and ids.max() < 256 else None)
    try:
        data = args.text.read_bytes()
    except OSError as error:
        raise ProgramError(f"{args.text}: cannot be read ({error.strerror})") from None
    try:
        text = program.text if program is not None else text_of(config, carried(args.model), args.model.name)
        return text.passage(data)
    except NoText as error:
        raise NoText(f"{error}; give token ids instead, with --tokens") from None


def main(args: argparse.Namespace) -> int:
    program = load_program(args) if is_compiled(args.model) else None
    passage = passage_of(args, program)
    if program is None:
        if args.context is None:
            args.context = min(args.window, ModelConfig.load(args.model).max_positions)
        program = load_program(args, chunk=CHUNK)
    policy = ALWAYS.name if args.always else args.policy or COMPILED
    asked = Run((0,), dial=args.dial, routing=policy)
    refuse_idle_dial(program, asked)
    # What the target would refuse, whose chunk was widened.
    target = program.machine if is_compiled(args.model) else Machine.load(args.target)
    require_windows(target, (each for layer in asked.policies(program) for pair in layer for each in pair))
    if program.masks and not program.register(Config.MASKING) & MASK_PROMPT:
        warn(
            "windows are prompts, of which the program masks no channels; --mask-prompt, here or where it was compiled, has them masked"
        )
    if "--window" in args.given and args.window > program.context:
        raise ProgramError(f"--window is {args.window}; accepted: up to {program.context}, the context of program or model")
    window = min(args.window, program.context)
    total = sum(part.stop - part.start + len(passage.head) for part in windows_of(passage, window))
    begin = time.perf_counter()
    saturated: list[bool] = []
    if args.engine == "reference":
        from sim.reference.threads import few_threads

        few_threads(program.model)
    with Following() as progress:
        task = progress.add_task(f"{args.engine} engine", total=total)
        found = evaluate(
            program,
            passage,
            args.engine,
            window,
            False,
            policy=policy,
            dial=args.dial,
            on_result=lambda result: saturated.append(result.saturated),
            say=lambda done: progress.update(task, completed=done),
        )
    seconds = time.perf_counter() - begin
    bits, active = found.bits_per_byte, share_of(found.channels)
    print(
        f"{found.nats_per_token:.4f} nats per token over {found.tokens} tokens, "
        + (f"{bits:.4f} bits per byte over {found.bytes} bytes, " if bits is not None else "")
        + f"executed share {found.executed_share:.3f}, "
        + (f"active share of channels with thresholds {active:.3f}, " if active is not None else "")
        + f"{args.engine} engine, kv {program.kv}, {total / seconds:.0f} tokens/s"
    )
    finite = math.isfinite(found.nats)
    overflow = any(saturated) or not finite
    if overflow:
        warn(SATURATED)
    if args.json:
        keys = {"engine": args.engine, "target": program.machine.name, "model": program.source["checkpoint"], "kv": program.kv}
        source = f"skipopu eval, {(args.tokens or args.text).name}"
        records = [
            Record("nats_per_token", found.nats_per_token if finite else None, "nat/token", "simulated", source, **keys),
            *(
                [Record("bits_per_byte", bits if finite else None, "bit/byte", "simulated", source, **keys)]
                if bits is not None
                else []
            ),
            Record("executed_share", found.executed_share, "ratio", "simulated", source, **keys),
            *([Record("active_channels_share", active, "ratio", "simulated", source, **keys)] if active is not None else []),
            Record("wall_s", round(seconds, 2), "s", "measured", source, **keys),
        ]
        inputs = inputs_of(args, program) | ({} if passage.sizes is None else {"bytes": int(passage.sizes.sum())})
        if args.tokens is not None:
            del inputs["text"]
        outputs = {"predicted_tokens": found.tokens, "predicted_bytes": found.bytes, "saturated": overflow}
        write_json(args.json, "eval", inputs, records, outputs)
    return 0 if finite else 1
