"""``skipopu demo``: the shipped model, compiled, executed by all engines, cross-checked, with and without skipping."""

from __future__ import annotations

import argparse
import time

from rich.table import Table

from compiler.command import add_masks, compiled
from compiler.frontend.checkpoint import load
from sim.asked import text_ids
from sim.check import check
from sim.command.check import check_table, records_of, say_outcome
from sim.command.common import Phases, inputs_of, out, outputs_of
from sim.functional import engine as functional
from sim.reference.threads import few_threads
from sim.rtl import engine as rtl
from skipopu.arguments import add_json
from skipopu.errors import CheckpointError
from skipopu.machine.config import Machine
from skipopu.program.run import Run
from skipopu.report import Record, write_json
from skipopu.shipped import MODELS, path_or_shipped
from skipopu.terminal import doing
from skipopu.text_stream import continuation

SHIPPED = "pybyte-1m"
PROMPT = "def read(self, size=-1):\n"
NEW_TOKENS = 16
SAMPLE_TOKENS = 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=path_or_shipped, default=MODELS / SHIPPED, help=f"checkpoint directory; default {SHIPPED}"
    )
    parser.add_argument("--target", default="tiny", help="target name or machine description; default tiny")
    parser.add_argument("--kv", choices=("dense", "reuse"), default="reuse", help="KV policy; default reuse")
    add_masks(parser)
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    begin = time.perf_counter()
    if not args.model.is_dir():
        raise CheckpointError(f"{args.model}: no such checkpoint directory")
    program = compiled(
        args, load(args.model, mask_file=args.masks), Machine.load(args.target), kv=args.kv, mask_prompt=args.mask_prompt
    )
    out.print(
        f"Compiled {args.model.name} for {program.machine.name}: {len(program.instructions)} instructions,"
        f" {len(program.memory[0]):,} bytes in each of {program.machine.ports} ports."
    )
    prompt = text_ids(program, PROMPT, "the demo needs text")
    start = time.perf_counter()
    sample = functional.run(program, Run(prompt, SAMPLE_TOKENS))
    rate = (len(sample.tokens) + len(prompt)) / (time.perf_counter() - start)
    out.rule(f"functional engine, {rate:.0f} tokens/s, {sample.executed_share:.0%} of modules executed")
    print(PROMPT + continuation(program.text, prompt, sample.tokens), flush=True)
    out.rule()
    options = Run(prompt, NEW_TOKENS)
    few_threads(program.model)
    with doing("check") as say:
        watch = Phases(say)
        result = check(program, options, watch)
        say("RTL simulation with every module executed")
        always = Run(prompt, NEW_TOKENS, routing="always")
        forced = rtl.run(program, always, watch=watch) if result.rtl is not None else None
    out.print(check_table(program, result))
    records = records_of(program, result)
    if result.rtl is not None and forced is not None:
        # Check mode writes a record per instruction: leave it out of the comparison.
        plain = rtl.run(program, options)
        table = Table(title="What skipping saves (RTL counters)")
        for column in ("", "routing on", "all executed", "saved"):
            table.add_column(column, justify="right" if column else "left")
        beat = program.machine.beat_bytes
        rows = [
            ("cycles", plain.counters["CYCLES"], forced.counters["CYCLES"]),
            ("bytes read", plain.counters["READ_BEATS"] * beat, forced.counters["READ_BEATS"] * beat),
            ("bytes written", plain.counters["WRITE_BEATS"] * beat, forced.counters["WRITE_BEATS"] * beat),
            ("KV entries", plain.kv_entries, forced.kv_entries),
        ]
        keys = {"engine": "rtl", "target": program.machine.name, "model": args.model.name, "kv": args.kv}
        for name, on, off in rows:
            table.add_row(name, f"{on:,}", f"{off:,}", f"{1 - on / off:.1%}")
            unit = name.split()[0] if name == "cycles" else "byte" if "bytes" in name else "entry"
            for label, value in (("on", on), ("always", off)):
                key = {
                    "cycles": "cycles",
                    "bytes read": "bytes_read",
                    "bytes written": "bytes_written",
                    "KV entries": "kv_entries",
                }[name]
                records.append(Record(key, value, unit, "simulated", f"RTL counters, routing {label}", **keys))
        out.print(table)
        out.print("Its runs leave out check mode, whose record per instruction makes the first table's cycles a few more.")
        if plain.tokens != result.functional.tokens:
            result.problems.append("tokens differ with check mode off")
    seconds = time.perf_counter() - begin
    say_outcome(result)
    if result.ok and result.rtl is not None:
        cycles = result.rtl.counters["CYCLES"]
        out.print(
            f"All engines agree: {len(result.functional.tokens)} tokens equal, {result.differing_bits} differing bits,"
            f" {cycles:,} cycles simulated. {seconds:.0f} s.",
            style="green",
        )
    if args.json:
        records.append(Record("wall_s", round(seconds, 1), "s", "measured", "skipopu demo", target=program.machine.name))
        write_json(args.json, "demo", inputs_of(args), records, outputs_of(program, prompt, sample.tokens, sample.saturated))
    return 0 if result.ok else 1
