"""Counters of engines with time, as records, as a table and in a sentence."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from sim.command.common import console
from sim.profile import CAUSES, exposed, profile
from sim.result import Result
from skipopu.isa.registers import COUNTERS, OF_MASKS
from skipopu.program.program import Program
from skipopu.quantity import quantity
from skipopu.report import Record


def counter_records(program: Program, counters: dict[str, int], engine: str) -> list[Record]:
    """Counters of an engine with time, under the host registers' names, bytes, and channels where there are masks."""
    keys = {"engine": engine, "target": program.machine.name, "model": program.source["checkpoint"], "kv": program.kv}
    source = "RTL counters" if engine == "rtl" else "timing engine"
    records = [
        Record(name.lower(), counters[name], "channel" if name in OF_MASKS else "cycle", "simulated", source, **keys)
        for name in COUNTERS
        if "BEATS" not in name and (name not in OF_MASKS or program.masks)
    ]
    beat = program.machine.beat_bytes
    records.append(Record("bytes_read", counters["READ_BEATS"] * beat, "byte", "simulated", source, **keys))
    records.append(Record("bytes_written", counters["WRITE_BEATS"] * beat, "byte", "simulated", source, **keys))
    return records


def profile_table(program: Program, counters: dict[str, int]) -> Table:
    """The same rows whatever engine counted; see :mod:`sim.profile`."""
    total = counters["CYCLES"]
    table = Table(title=f"Where {total:,} cycles go on {program.machine.name}")
    table.add_column("unit")
    for name in ("busy", *CAUSES, "idle"):
        table.add_column(name, justify="right", overflow="fold")

    def cell(cycles: int | None) -> str:
        return "" if cycles is None else f"{cycles:,} {cycles / total:6.1%}"

    for row in profile(counters):
        table.add_row(row.unit, cell(row.busy), *(cell(stall) for stall in row.stalls), cell(row.idle))
    rest = exposed(counters)
    table.caption = (
        f"exposed (neither array nor attention worked or waited for memory): {rest:,} cycles, {rest / total:.1%};"
        f" dispatch waited {counters['WAIT_ROUTE']:,} cycles for routing decisions"
    )
    return table


def tell_time(program: Program, result: Result, counters: dict[str, int], to: Console = console) -> list[Record]:
    """Says how long a run takes at the machine's clock; records of its first token and its decoding, where the engine timed them."""
    clock, cycles = program.machine.clock_mhz * 1e6, counters["CYCLES"]
    rate = len(result.tokens) / (cycles / clock) if cycles else 0.0
    to.print(f"{cycles:,} cycles; at an assumed {program.machine.clock_mhz:g} MHz {rate:.1f} tokens/s, prompt included")
    if len(result.at_token) < 2:
        return []
    first, last = (at["CYCLES"] / clock for at in (result.at_token[0], result.at_token[-1]))
    decode = (len(result.at_token) - 1) / (last - first)
    to.print(f"first token after {quantity(first, 's')}, then {decode:.1f} tokens/s")
    keys = {"engine": "timing", "target": program.machine.name, "model": program.source["checkpoint"], "kv": program.kv}
    source = f"timing engine, {program.machine.clock_mhz:g} MHz assumed"
    return [
        Record("time_to_first_token_s", round(first, 6), "s", "simulated", source, **keys),
        Record("decode_tokens_per_s", round(decode, 3), "token/s", "simulated", source, **keys),
    ]
