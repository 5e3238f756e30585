"""``skipopu run``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from rich.console import Console

from compiler.command import MASK_OPTIONS, SHAPE_HELP, compile_as, outline_of
from compiler.passes.heads import widen
from sim.asked import run_without_weights
from sim.command.common import (
    Typed,
    add_mask_arguments,
    add_model_arguments,
    add_run_arguments,
    check_routing,
    console,
    inputs_of,
    load_program,
    out,
    outputs_of,
    run_of,
    warn,
)
from sim.command.counters import counter_records, profile_table, tell_time
from sim.command.generate import add_speculation_arguments, lookup_of, tell_speculation
from sim.engine import Options, Watch
from sim.engines import ENGINES, Known, engine, knows, options
from sim.functional import options as functional
from sim.generation import Generation
from sim.mask_traces import TO_LEAVE_OUT, load_mask_trace, save_mask_trace, with_masks
from sim.masks import Masks
from sim.result import SATURATED, Routed
from sim.routing import save_trace
from sim.session import Session
from sim.speculation import Steps, draws
from sim.timing.masks import Channels, channels
from skipopu.arguments import output_file, positive, real, refuse
from skipopu.errors import MachineHalt, ProgramError
from skipopu.lookup import Lookup
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.quantity import quantity
from skipopu.report import Record, write_json
from skipopu.terminal import Following

ALONE = "cannot be combined with --speculate, whose tokens come from many runs"
KNOWN: dict[str, Known] = {"--profile": "counters", "--save-trace": "routing"}  # what the engine must know


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, optional=True)
    parser.add_argument("--shape", metavar="NAME", help=f"an architecture without weights instead (timing): {SHAPE_HELP}")
    parser.add_argument(
        "--prompt-length", type=positive, default=128, metavar="P", help="tokens of a shape's prompt; default 128"
    )
    parser.add_argument("--engine", choices=tuple(ENGINES), default="functional", help="default functional")
    add_run_arguments(parser, "def read(self, ", 64)
    add_mask_arguments(parser, ", with --shape")
    add_speculation_arguments(parser)
    parser.add_argument(
        "--acceptance",
        type=real(0, 1, "a ratio from 0 to 1"),
        metavar="A",
        help="of --speculate with --shape: the chance that a drafted token is right where those before it are, drawn with --seed",
    )
    parser.add_argument("--profile", action="store_true", help="busy and stall cycles per unit (timing, rtl)")
    parser.add_argument("--save-trace", type=output_file, metavar="FILE", help="write what was executed, for --skip-trace")
    for name in ENGINES:
        options(name).add_arguments(parser)


def refuse_others(args: argparse.Namespace) -> None:
    """Raises ProgramError for options that need another engine."""
    needs = [(options(name).FLAGS, [name]) for name in ENGINES]
    needs += [((flag,), [name for name in ENGINES if knows(name, what)]) for flag, what in KNOWN.items()]
    for flags, names in needs:
        if args.engine not in names and args.given.intersection(flags):
            need = "need" if len(flags) > 1 else "needs"
            raise ProgramError(f"{listed(flags, 'and')} {need} --engine {listed(names, 'or')}, not {args.engine}")


def listed(names: Sequence[str], word: str) -> str:
    """As in "a, b and c"."""
    return f" {word} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


class Bar(Watch):
    """How far a run is whose text comes in the end."""

    def __init__(self, progress: Following, total: int) -> None:
        self.progress, self.total = progress, total
        self.task = progress.add_task("", total=None)

    def token(self, token: int | None) -> None:
        self.progress.update(self.task, advance=1, total=self.total)

    def positions(self, done: int) -> None:
        self.progress.update(self.task, completed=done, total=self.total)

    def say(self, phase: str) -> None:
        self.progress.update(self.task, description=phase)


def run_shape(args: argparse.Namespace) -> tuple[Program, Run, Routed, Channels | None]:
    """A known architecture's program, its run, the routing that the options ask for, and the channels that are left out, if any."""
    if args.engine != "timing":
        raise ProgramError(f"--shape has no weights: it needs --engine timing, not {args.engine}")
    refuse(args, ["--prompt", "--tokens"], "has no effect on --shape, where tokens are only counted; use --prompt-length")
    refuse(
        args,
        ["--dial", "--policy", "--policies"],
        "has no effect on --shape, whose routers have no weights; use --skip or --skip-trace",
    )
    refuse(args, ["--lora", *MASK_OPTIONS], "has no effect on --shape, which has no weights")
    check_routing(args)
    checkpoint, machine, total = outline_of(args), Machine.load(args.target), args.prompt_length + args.max_new
    args.context = total if args.context is None else args.context
    active = None
    if args.mask_trace is not None:
        active = load_mask_trace(args.mask_trace, widen(checkpoint, machine).config, total - 1)
    if args.mask is not None or active is not None:
        machine.require_masks(TO_LEAVE_OUT)
        checkpoint = with_masks(checkpoint, active)
    program = compile_as(args, checkpoint, machine, False)
    routing = {"skip": args.skip, "trace": args.skip_trace, "seed": args.seed}
    run, routed = run_without_weights(program, args.prompt_length, args.max_new, **routing, what="--skip")
    return program, run, routed, channels(program, args.mask, active, args.seed)


def speculate(args: argparse.Namespace, program: Program, run: Run, lookup: Lookup, chosen: Options) -> int:
    """Generates with drafts: on the functional engine, whose runs the timing engine counts if it is asked for, or in RTL."""
    own = ["--profile", "--save-trace", "--save-mask-trace", "--waves", "--timeline"]
    refuse(args, own, ALONE)
    if args.engine == "reference":
        raise ProgramError("--speculate needs --engine functional, timing or rtl, not reference")
    if not run.max_new:
        raise ProgramError("--speculate has no effect on a prompt alone; give --max-new")
    timed, typed, begin = args.engine == "timing", Typed(program), time.perf_counter()
    masks = Masks(program, len(run.prompt) + run.max_new) if timed and program.masks else None
    steps = None if args.engine == "functional" else Steps(program, masks)
    if timed:
        chosen = functional.Options(masks=masks.see if masks else None)
    progress = Following()
    tokens: list[int] = []
    with (
        progress if args.engine == "rtl" else nullcontext(),
        Session(program, "rtl" if args.engine == "rtl" else "functional", chosen) as session,
    ):
        watch = Bar(progress, len(run.prompt) + run.max_new)
        generation = Generation(session, lookup=lookup, routing=run.routing, dial=run.dial, watch=watch)
        if steps is not None:
            generation.see = steps.see
        typed.prompt(run)
        for token in generation.tokens(run.prompt, run.max_new):
            tokens.append(token)
            typed.token(token)
    typed.end()
    seconds = time.perf_counter() - begin
    console.print(f"tokens {tokens}")
    console.print(f"{len(run.prompt)} prompt + {len(tokens)} new tokens, {args.engine} engine, {seconds:.2f} s")
    keys = {"engine": args.engine, "target": program.machine.name, "model": program.source["checkpoint"], "kv": program.kv}
    records = [
        Record("wall_s", round(seconds, 3), "s", "measured", "skipopu run", **keys),
        *tell_speculation(generation, len(tokens), keys),
    ]
    if generation.saturated:
        warn(SATURATED)
    if steps is not None:
        records += tell_steps(steps, len(tokens), keys)
    if args.json:
        write_json(
            args.json,
            "run",
            inputs_of(args, program, run),
            records,
            outputs_of(program, run.prompt, tokens, generation.saturated),
        )
    return 0


def speculate_shape(args: argparse.Namespace, program: Program, run: Run, lookup: Lookup, routed: Routed) -> int:
    """Counts what a known architecture takes with drafts of which a share is right."""
    if args.acceptance is None:
        raise ProgramError("--speculate with --shape needs --acceptance A: without weights nothing says which drafts are right")
    if run.max_new < 2:
        raise ProgramError("--speculate has no effect on a token alone; give --max-new 2 or more")
    refuse(args, ["--profile", "--save-trace", "--timeline", "--mask", "--mask-trace"], ALONE)
    runs = draws(len(run.prompt), run.max_new, args.acceptance, lookup.drafts, args.seed)
    routing, steps = Routed(tokens=[], routing=routed.routing), Steps(program)
    with Following() as progress:
        for one in progress.follow("timing engine", runs):
            steps.see(one, routing)
    keys = {"engine": "timing", "target": program.machine.name, "model": program.source["checkpoint"], "kv": program.kv}
    drafted, accepted = sum(len(one.known) - one.first - 1 for one in runs[1:]), run.max_new - len(runs)
    out.print(
        f"{run.max_new} tokens in {len(runs)} runs through the model: of {drafted} drafted tokens {accepted} were accepted, one draw, seed"
        f" {args.seed}"
    )
    source = f"drawn, acceptance {args.acceptance:g}, seed {args.seed}"
    figures = (("runs", len(runs), "run"), ("drafted_tokens", drafted, "token"), ("accepted_tokens", accepted, "token"))
    records = [Record(name, value, unit, "simulated", source, **keys) for name, value, unit in figures]
    records += tell_steps(steps, run.max_new, keys, out)
    if args.json:
        inputs = {k: v for k, v in inputs_of(args, program).items() if k not in ("prompt", "dial")}
        write_json(args.json, "run", inputs, records)
    return 0


def tell_steps(steps: Steps, tokens: int, keys: dict[str, Any], to: Console = console) -> list[Record]:
    """Says how long the machine takes; as records."""
    source, first = f"{keys['engine']} engine, {steps.clock / 1e6:g} MHz assumed", steps.time_to_first_token
    records = [
        Record("cycles", sum(steps.cycles), "cycle", "simulated", source, **keys),
        Record("time_to_first_token_s", round(first, 6), "s", "simulated", source, **keys),
    ]
    then = ""
    if tokens > 1:
        rate = steps.tokens_per_s(tokens)
        then = f", then {rate:.1f} tokens/s"
        records.append(Record("decode_tokens_per_s", round(rate, 3), "token/s", "simulated", source, **keys))
    to.print(
        f"{sum(steps.cycles):,} cycles; at an assumed {steps.clock / 1e6:g} MHz the first token after {quantity(first, 's')}{then}"
    )
    return records


def type_rest(program: Program, run: Run, watch: Watch, tokens: Sequence[int]) -> None:
    """Ends the text of a run, of which nothing was typed yet unless ``watch`` did."""
    typed = watch if isinstance(watch, Typed) else Typed(program)
    if typed is not watch:
        typed.prompt(run)
        for token in tokens:
            typed.token(token)
    typed.end()


def main(args: argparse.Namespace) -> int:
    if (args.model is None) == (args.shape is None):
        raise ProgramError("run needs a checkpoint directory, a compiled program or --shape NAME, one of them")
    routed: Routed | None = None
    channels: Channels | None = None
    if args.shape is not None:
        program, run, routed, channels = run_shape(args)
    else:
        refuse(args, ["--mask", "--mask-trace"], "is of --shape; of a model thresholds say what is left out, those of --masks")
        refuse(args, ["--prompt-length"], "is of --shape; a model's prompt is given by --prompt or --tokens")
        program = load_program(args)
        run = run_of(args, program)
    refuse_others(args)
    chosen = {name: options(name).from_arguments(args) for name in ENGINES}[args.engine]
    if routed is not None:
        chosen = replace(chosen, routed=routed, channels=channels)
    lookup = lookup_of(args, program)
    if lookup is not None:
        if routed is not None:
            return speculate_shape(args, program, run, lookup, routed)
        refuse(args, ["--acceptance"], "is of --shape; a model says itself which drafts are right")
        return speculate(args, program, run, lookup, chosen)
    refuse(args, ["--acceptance"], "is of --speculate, which was not given")
    seen: Masks | None = None
    if args.save_mask_trace is not None:
        if not program.masks:
            raise ProgramError("--save-mask-trace has no effect: the program has no thresholds of input channels")
        seen = Masks(program, len(run.prompt) + run.max_new)
        chosen = replace(chosen, masks=seen.see)
    if args.engine == "reference":
        from sim.reference.threads import few_threads

        few_threads(program.model)
    streams = knows(args.engine, "text")
    progress = Following()
    watch = Typed(program) if streams else Bar(progress, len(run.prompt) + run.max_new)
    if isinstance(watch, Typed):
        watch.prompt(run)
    begin = time.perf_counter()
    try:
        with nullcontext() if streams else progress:
            result = engine(args.engine).run(program, run, chosen, watch)
    except MachineHalt as halt:
        if args.shape is None:
            type_rest(program, run, watch, halt.tokens)
        raise
    seconds = result.seconds or time.perf_counter() - begin
    if args.shape is None:
        type_rest(program, run, watch, result.tokens)
    if args.save_trace is not None and result.routing is not None:
        save_trace(args.save_trace, result.routing)
    if args.save_mask_trace is not None and seen is not None and result.routing is not None:
        save_mask_trace(args.save_mask_trace, seen.until(result.routing.shape[2]).active)
    if args.shape is None:
        console.print(f"tokens {result.tokens}")
    told = console if args.shape is None else out  # beside a text, or all that there is
    told.print(f"{len(run.prompt)} prompt + {len(result.tokens)} new tokens, {args.engine} engine, {seconds:.2f} s")
    keys = {"engine": args.engine, "target": program.machine.name, "model": program.source["checkpoint"], "kv": program.kv}
    records = [Record("wall_s", round(seconds, 3), "s", "measured", "skipopu run", **keys)]
    if result.saturated:
        warn(SATURATED)
    if (streams or args.shape is not None) and isinstance(result, Routed):
        share, active = result.executed_share, result.active_channels_share
        told.print(f"executed share of modules {share:.3f}")
        records.append(Record("executed_share", share, "ratio", "simulated", f"{args.engine} engine", **keys))
        if active is not None:
            told.print(f"active share of channels with thresholds {active:.3f}")
            records.append(Record("active_channels_share", active, "ratio", "simulated", f"{args.engine} engine", **keys))
    if result.counters is not None:
        of_time = tell_time(program, result, result.counters, told)
        records += [*counter_records(program, result.counters, args.engine), *of_time]
        if args.profile:
            told.print(profile_table(program, result.counters))
    if args.json:
        inputs = inputs_of(args, program, run if args.shape is None else None)
        if args.shape is not None:
            inputs = {k: v for k, v in inputs.items() if k not in ("prompt", "dial")}
        outputs = outputs_of(program, run.prompt, result.tokens, result.saturated) if args.shape is None else None
        write_json(args.json, "run", inputs, records, outputs)
    return 0
