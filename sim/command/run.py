"""``skipopu run``."""

from __future__ import annotations

import argparse
import importlib
import time
from contextlib import nullcontext

from rich.progress import Progress
from rich.table import Table

from compiler.command import SHAPE_HELP, compile_as
from compiler.frontend.shapes import outline
from sim.command.common import (
    ENGINES,
    add_model_arguments,
    add_run_arguments,
    check_routing,
    console,
    inputs_of,
    load_program,
    outputs_of,
    run_of,
    text_writer,
    warn,
)
from sim.engine import SATURATED, Result
from sim.profile import CAUSES, exposed, profile
from sim.routing import independent, load_trace, ratios, save_trace
from sim.timeline import Span, write_perfetto
from skipopu.arguments import integer, natural, output_file, positive, refuse
from skipopu.errors import ProgramError
from skipopu.isa.program import Program, Run
from skipopu.isa.registers import COUNTERS
from skipopu.machine.config import Machine
from skipopu.quantity import quantity
from skipopu.report import Record, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, optional=True)
    parser.add_argument("--shape", metavar="NAME", help=f"an architecture without weights instead (timing): {SHAPE_HELP}")
    parser.add_argument(
        "--prompt-length", type=positive, default=128, metavar="P", help="tokens of a shape's prompt; default 128"
    )
    parser.add_argument("--engine", choices=ENGINES, default="functional", help="default functional")
    add_run_arguments(parser, "def read(self, ", 64)
    parser.add_argument("--profile", action="store_true", help="busy and stall cycles per unit (timing, rtl)")
    parser.add_argument("--timeline", type=output_file, metavar="FILE", help="units over time, for ui.perfetto.dev (timing)")
    parser.add_argument("--waves", type=output_file, metavar="FILE", help="waves of the RTL engine: .vcd or .fst")
    parser.add_argument("--scope", metavar="UNIT", help="what --waves records: a unit, as overlay.dispatch; default all")
    parser.add_argument(
        "--depth", type=natural, default=0, metavar="N", help="levels below --scope that --waves records; default all"
    )
    parser.add_argument(
        "--waves-limit", type=positive, default=4000, metavar="MB", help="ends a run with larger waves; default 4000"
    )
    parser.add_argument(
        "--window", default="0:4", metavar="A:B", help="what --waves records: token positions A to B-1; default 0:4"
    )
    parser.add_argument("--save-trace", type=output_file, metavar="FILE", help="write what was executed, for --skip-trace")
    parser.add_argument("--window-instructions", action="store_true", help="the window counts dispatched instructions instead")
    # Ranges as in a machine's description, see skipopu.machine.memory.
    parser.add_argument(
        "--latency", type=integer(1, 1000), metavar="N", help="cycles to the first beat of a read (rtl); default the machine's"
    )
    parser.add_argument(
        "--bandwidth", type=integer(1, 256), metavar="N", help="beats per 256 cycles and port (rtl); default the machine's"
    )


def counter_records(program: Program, result: Result, engine: str) -> list[Record]:
    """Counters of an engine with time, under the host registers' names, and bytes."""
    keys = {"engine": engine, "target": program.machine.name, "model": program.source["checkpoint"], "kv": program.kv}
    source = "RTL counters" if engine == "rtl" else "timing engine"
    records = [
        Record(name.lower(), result.counters[name], "cycle", "simulated", source, **keys)
        for name in COUNTERS
        if "BEATS" not in name
    ]
    beat = program.machine.beat_bytes
    records.append(Record("bytes_read", result.counters["READ_BEATS"] * beat, "byte", "simulated", source, **keys))
    records.append(Record("bytes_written", result.counters["WRITE_BEATS"] * beat, "byte", "simulated", source, **keys))
    return records


def profile_table(program: Program, result: Result) -> Table:
    """The same rows whatever engine counted; see :mod:`sim.profile`."""
    total = result.counters["CYCLES"]
    table = Table(title=f"Where {total:,} cycles go on {program.machine.name}")
    table.add_column("unit")
    for name in ("busy", *CAUSES, "idle"):
        table.add_column(name, justify="right")

    def cell(cycles: int | None) -> str:
        return "" if cycles is None else f"{cycles:,} {cycles / total:6.1%}"

    for row in profile(result.counters):
        table.add_row(row.unit, cell(row.busy), *(cell(stall) for stall in row.stalls), cell(row.idle))
    rest = exposed(result.counters)
    table.caption = (
        f"exposed (neither array nor attention worked or waited for memory): {rest:,} cycles, {rest / total:.1%};"
        f" dispatch waited {result.counters['WAIT_ROUTE']:,} cycles for routing decisions"
    )
    return table


def run_shape(args: argparse.Namespace) -> tuple[Program, Run, Result]:
    """A known architecture's program, its run and the routing that the options ask for."""
    if args.engine != "timing":
        raise ProgramError(f"--shape has no weights: it needs --engine timing, not {args.engine}")
    refuse(args, ["--prompt", "--tokens"], "has no effect on --shape, where tokens are only counted; use --prompt-length")
    refuse(args, ["--dial", "--routers"], "has no effect on --shape, which has no routers; use --skip or --skip-trace")
    check_routing(args)
    checkpoint = outline(args.shape)
    layers, total = checkpoint.config.num_layers, args.prompt_length + args.max_new
    routing = independent(layers, total, *ratios("0" if args.skip is None else args.skip, layers), args.seed)
    if args.skip_trace is not None:
        routing = load_trace(args.skip_trace)
    args.context = total if args.context is None else args.context
    program = compile_as(args, checkpoint, Machine.load(args.target), False)
    options = Run((0,) * args.prompt_length, args.max_new)
    options.validate(program)
    if len(routing) != layers or routing.shape[2] < total - 1:
        raise ProgramError(f"the routing trace has shape {routing.shape}; this run needs ({layers}, 2, {total - 1})")
    return program, options, Result([0] * args.max_new, routing)


def main(args: argparse.Namespace) -> int:
    if (args.model is None) == (args.shape is None):
        raise ProgramError("run needs a checkpoint directory, a compiled program or --shape NAME, one of them")
    routed: Result | None = None
    if args.shape is not None:
        program, options, routed = run_shape(args)
    else:
        refuse(args, ["--prompt-length"], "is of --shape; a model's prompt is given by --prompt or --tokens")
        program = load_program(args)
        options = run_of(args, program)
    if args.waves is None:
        refuse(
            args,
            ["--window", "--window-instructions", "--scope", "--depth", "--waves-limit"],
            "is of --waves, which was not given",
        )
    engine = importlib.import_module(f"sim.{args.engine}.engine")
    extra: dict[str, object] = {}
    if args.engine != "timing":
        extra["on_token"] = text_writer(program)
    if args.waves is not None or args.latency is not None or args.bandwidth is not None:
        if args.engine != "rtl":
            raise ProgramError(f"--waves, --latency and --bandwidth need --engine rtl, not {args.engine}")
        from sim.rtl.engine import Memory, Window

        extra["memory"] = Memory(args.latency, args.bandwidth)
        if args.waves is not None:
            try:
                start, stop = (int(part) for part in args.window.split(":"))
            except ValueError:
                raise ProgramError(f"--window is {args.window!r}; accepted: A:B") from None
            scope = {} if args.scope is None else {"scope": args.scope}
            extra["waves"] = Window(
                args.waves, start, stop, args.window_instructions, depth=args.depth, limit=args.waves_limit * 1_000_000, **scope
            )
    if args.timeline is not None and args.engine != "timing":
        raise ProgramError(f"--timeline needs --engine timing, not {args.engine}")
    if args.profile and args.engine not in ("timing", "rtl"):
        raise ProgramError(f"--profile needs --engine timing or rtl, not {args.engine}")
    spans: list[Span] = []
    if args.save_trace is not None and args.engine == "rtl":
        raise ProgramError("--save-trace needs --engine functional, reference or timing, not rtl")
    progress = Progress(console=console, transient=True)
    if args.engine == "timing":
        from sim.functional import engine as functional

        extra["spans"] = spans if args.timeline else None
        extra["routed"] = routed = functional.run(program, options) if routed is None else routed
        task = progress.add_task("timing engine", total=len(options.prompt) + options.max_new)
        extra["on_chunk"] = lambda done: progress.update(task, completed=done)
    write = text_writer(program)
    if args.engine in ("reference", "functional"):
        for token in options.prompt:
            write(token)
    begin = time.perf_counter()
    if args.engine == "rtl":
        extra["say"] = lambda phase: progress.update(task, description=f"RTL: {phase}")
        task = progress.add_task("RTL", total=None)
    with progress if args.engine in ("timing", "rtl") else nullcontext():
        result = engine.run(program, options, **extra)
    seconds = result.seconds or time.perf_counter() - begin
    print()
    if args.engine == "rtl" and result.tokens:
        print(outputs_of(program, result.tokens, result.saturated).get("text", result.tokens))
    if args.save_trace is not None:
        save_trace(args.save_trace, result.routing)
    if args.shape is None:
        console.print(f"tokens {result.tokens}")
    console.print(f"{len(options.prompt)} prompt + {len(result.tokens)} new tokens, {args.engine} engine, {seconds:.2f} s")
    keys = {"engine": args.engine, "target": program.machine.name, "model": program.source["checkpoint"], "kv": program.kv}
    records = [Record("wall_s", round(seconds, 3), "s", "measured", "skipopu run", **keys)]
    # The timing engine has no numbers: the functional one, which gave it the routing, has.
    saturated = result.saturated or (routed is not None and routed.saturated)
    if saturated:
        warn(SATURATED)
    if args.engine in ("reference", "functional"):
        share = result.executed_share
        console.print(f"executed share of modules {share:.3f}")
        records.append(Record("executed_share", share, "ratio", "simulated", f"{args.engine} engine", **keys))
    if result.counters:
        cycles = result.counters["CYCLES"]
        rate = len(result.tokens) / (cycles / (program.machine.clock_mhz * 1e6)) if cycles else 0.0
        console.print(
            f"{cycles:,} cycles; at an assumed {program.machine.clock_mhz:g} MHz {rate:.1f} tokens/s, prompt included"
        )
        records += counter_records(program, result, args.engine)
        if len(result.at_token) > 1:
            first, last = (
                counters["CYCLES"] / (program.machine.clock_mhz * 1e6) for counters in (result.at_token[0], result.at_token[-1])
            )
            decode = (len(result.at_token) - 1) / (last - first)
            console.print(f"first token after {quantity(first, 's')}, then {decode:.1f} tokens/s")
            source = f"timing engine, {program.machine.clock_mhz:g} MHz assumed"
            records.append(Record("time_to_first_token_s", round(first, 6), "s", "simulated", source, **keys))
            records.append(Record("decode_tokens_per_s", round(decode, 3), "token/s", "simulated", source, **keys))
        if args.profile:
            console.print(profile_table(program, result))
    if args.timeline:
        args.timeline.parent.mkdir(parents=True, exist_ok=True)
        write_perfetto(args.timeline, spans, program.machine.clock_mhz)
    if args.json:
        inputs = inputs_of(args, program, options if args.shape is None else None)
        if args.shape is not None:
            inputs = {k: v for k, v in inputs.items() if k not in ("prompt", "dial")}
        outputs = outputs_of(program, result.tokens, saturated) if args.shape is None else None
        write_json(args.json, "run", inputs, records, outputs)
    return 0
