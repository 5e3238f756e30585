"""``skipopu check``."""

from __future__ import annotations

import argparse
import math
from typing import Any

from rich.table import Table

from sim.check import Check, check
from sim.command.common import (
    Phases,
    add_model_arguments,
    add_run_arguments,
    console,
    inputs_of,
    load_program,
    out,
    outputs_of,
    run_of,
    warn,
)
from sim.command.counters import counter_records
from sim.reference.threads import few_threads
from sim.result import Result
from skipopu.program.program import Program
from skipopu.report import Record, write_json
from skipopu.terminal import doing

PROMPT = "def read(self, size=-1):\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_run_arguments(parser, PROMPT, 16)
    parser.add_argument("--no-rtl", action="store_true", help="leave the RTL simulation out")


def saturation(result: Result) -> str:
    """What the table adds to an engine's result whose numbers left their range."""
    return ", saturated" if result.saturated else ""


def check_table(program: Program, result: Check) -> Table:
    """The four engines side by side."""
    table = Table(title=f"{program.source['checkpoint']} on {program.machine.name}, kv {program.kv}, {program.numerics}")
    for column in ("engine", "tokens", "checked against", "result", "cycles", "bytes read"):
        table.add_column(column, justify="right" if column in ("cycles", "bytes read") else "left")
    a = result.agreement
    expected = result.functional.tokens
    beat = program.machine.beat_bytes

    def tokens(seen: list[int]) -> str:
        return "equal" if seen == expected else "differ"

    inside = f"undecided: {a.routing_inside}/{a.routing_positions} routing bits, {a.token_inside}/{a.token_positions} tokens"
    if program.masks:
        inside += f", {a.masks.inside}/{a.masks.positions} channels"
    table.add_row(
        "reference",
        tokens(result.reference.tokens),
        "functional",
        f"{a.routing_differing + a.token_differing + a.masks.differing} differ outside the derived bounds\n({inside})"
        if not a.non_finite
        else "not finite: nothing compared",
        "",
        "",
    )
    share = f"executed share {result.functional.executed_share:.3f}"
    if (active := result.functional.active_channels_share) is not None:
        share += f", active channels {active:.3f}"
    share += saturation(result.functional)
    table.add_row("functional", f"{len(expected)} new", "", share, "", "")
    counters, error = result.timing.counters, result.cycle_error
    table.add_row(
        "timing",
        "",
        "rtl cycles",
        "" if error is None else f"{error:+.2%}",
        f"{counters['CYCLES']:,}",
        f"{counters['READ_BEATS'] * beat:,}",
    )
    if result.rtl is not None:
        counters = result.rtl.counters
        table.add_row(
            "rtl",
            tokens(result.rtl.tokens),
            "functional",
            f"{result.differing_bits} differing bits{saturation(result.rtl)}",
            f"{counters['CYCLES']:,}",
            f"{counters['READ_BEATS'] * beat:,}",
        )
    return table


def mask_records(result: Check, source: str, keys: dict[str, Any]) -> list[Record]:
    """What was masked, and how it compares; none where nothing was."""
    share, compared = result.functional.active_channels_share, result.agreement.masks
    if share is None:
        return []
    return [
        Record("active_channels_share", share, "ratio", "simulated", source, engine="functional", **keys),
        *(
            Record(f"channels_{name}", value, "channel", "simulated", source, engine="reference", **keys)
            for name, value in (
                ("differing", compared.differing),
                ("inside_bound", compared.inside),
                ("positions", compared.positions),
            )
        ),
    ]


def records_of(program: Program, result: Check) -> list[Record]:
    """The check's figures."""
    keys = {"target": program.machine.name, "model": program.source["checkpoint"], "kv": program.kv}
    a = result.agreement
    expected = result.functional.tokens
    source = "skipopu check"
    records = [
        Record(
            "tokens_equal", int(result.reference.tokens == expected), "bool", "simulated", source, engine="reference", **keys
        ),
        Record("routing_differing", a.routing_differing, "bit", "simulated", source, engine="reference", **keys),
        Record("routing_inside_bound", a.routing_inside, "bit", "simulated", source, engine="reference", **keys),
        Record("routing_positions", a.routing_positions, "bit", "simulated", source, engine="reference", **keys),
        Record("tokens_differing", a.token_differing, "token", "simulated", source, engine="reference", **keys),
        Record("tokens_inside_bound", a.token_inside, "token", "simulated", source, engine="reference", **keys),
        Record("non_finite", a.non_finite, "number", "simulated", source, engine="reference", **keys),
        Record(
            "logit_bound",
            a.logit_bound if math.isfinite(a.logit_bound) else None,
            "1",
            "derived",
            source,
            engine="reference",
            **keys,
        ),
        Record("executed_share", result.functional.executed_share, "ratio", "simulated", source, engine="functional", **keys),
        Record("kv_entries", result.functional.kv_entries, "entry", "simulated", source, engine="functional", **keys),
        *counter_records(program, result.timing.counters, "timing"),
        *mask_records(result, source, keys),
    ]
    engines: dict[str, Result | None] = {"reference": result.reference, "functional": result.functional, "rtl": result.rtl}
    records += [
        Record("saturated", int(seen.saturated), "bool", "simulated", source, engine=name, **keys)
        for name, seen in engines.items()
        if seen is not None
    ]
    if result.rtl is not None:
        records += [
            Record("differing_bits", result.differing_bits, "bit", "simulated", source, engine="rtl", **keys),
            Record("tokens_equal", int(result.rtl.tokens == expected), "bool", "simulated", source, engine="rtl", **keys),
            Record("cycle_error", result.cycle_error, "ratio", "simulated", source, engine="timing", **keys),
            *counter_records(program, result.rtl.counters, "rtl"),
        ]
    return records


def say_outcome(result: Check) -> None:
    """What disagrees, and what the agreement is worth."""
    for remark in result.remarks:
        warn(remark)
    for problem in result.problems:
        console.print(problem, style="red", soft_wrap=True)


def main(args: argparse.Namespace) -> int:
    program = load_program(args)
    options = run_of(args, program)
    few_threads(program.model)
    with doing("check") as say:
        result = check(program, options, Phases(say), with_rtl=not args.no_rtl)
    out.print(check_table(program, result))
    say_outcome(result)
    if args.json:
        outputs = outputs_of(program, options.prompt, result.functional.tokens, result.functional.saturated)
        write_json(args.json, "check", inputs_of(args, program, options), records_of(program, result), outputs)
    return 0 if result.ok else 1
