"""Study ``timing``: the timing engine's cycles against the RTL's on generated machines, and what decoding depends on."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sim.estimate import Workload, estimate
from sim.fuzz.run import BOUND, SHORT, cycles_of, replay, within
from skipopu.errors import SkipopuError
from skipopu.machine.clock import at_clock
from skipopu.machine.config import Machine
from skipopu.machine.memory import MemoryTiming
from skipopu.report import Cell, Keys, Plot, Record, Report, Table, shown

DECODE = Workload("llama-2-7b", 128, 1024, "0.25")
LATENCIES, CLOCKS = (34, 46, 50, 64, 80, 100), (150, 180, 200, 225)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One run, whose every bit was equal to the functional engine's: the machine's description, cycles of both engines."""

    seed: int
    number: int
    machine: Machine
    context: int
    skips: bool
    rtl: int
    timing: int

    @property
    def error(self) -> float:
        return self.timing / self.rtl - 1

    @property
    def within(self) -> bool:
        return within(self.timing, self.rtl)


def study(log: Path, say: Say = lambda text: None) -> list[Row]:
    """A row for each run in a log of ``skipopu fuzz`` that agreed and whose memory did not pause at random, counted anew.

    Raises:
        SkipopuError: the log cannot be read, or holds no such run.
    """
    try:
        lines = [json.loads(text) for text in log.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise SkipopuError(f"{log}: not a log of `skipopu fuzz` ({error})") from None
    rows = []
    for line in lines:
        if line["outcome"] == "agreed" and cycles_of(line):
            machine = Machine.from_dict(dict(line["machine"]), f"{log}: {line['machine']['name']}")
            skips = line["rtl"]["EXECUTED_ATTENTION"] + line["rtl"]["EXECUTED_FFN"] < math.prod(line["routing"][0])
            cycles = line["rtl"]["CYCLES"], replay(line)["CYCLES"]
            rows.append(Row(line["seed"], line["number"], machine, line["routing"][0][2], skips, *cycles))
            say(f"{len(rows)} runs")
    if not rows:
        raise SkipopuError(f"{log}: no run of a machine that agreed and whose memory did not pause at random")
    return rows


def distribution(rows: Sequence[Row]) -> list[str]:
    """Cells: runs, median, 90th percentile and largest magnitude, share beyond 3 %, runs beyond the goal."""
    errors = np.array([row.error for row in rows])
    sizes = np.abs(errors)
    largest = errors[sizes.argmax()]
    beyond, missed = (sizes > BOUND).mean(), sum(not row.within for row in rows)
    return [
        str(len(rows)),
        f"{np.median(sizes):.2%}",
        f"{np.quantile(sizes, 0.9):.2%}",
        f"{largest:+.1%}",
        f"{beyond:.1%}",
        str(missed),
    ]


def by_feature(rows: Sequence[Row]) -> Table:
    """The distribution over runs that have something in common."""

    def timing_of(row: Row) -> MemoryTiming:
        return row.machine.memory

    features: dict[str, Callable[[Row], bool]] = {
        "all": lambda row: True,
        "dense": lambda row: not row.skips,
        "skipping": lambda row: row.skips,
        "1 port": lambda row: row.machine.ports == 1,
        "2 to 4 ports": lambda row: 2 <= row.machine.ports <= 4,
        "5 ports and more": lambda row: row.machine.ports >= 5,
        "64-bit ports": lambda row: row.machine.port_bits == 64,
        "128-bit ports": lambda row: row.machine.port_bits == 128,
        "256 and 512-bit ports": lambda row: row.machine.port_bits >= 256,
        "latency up to 24": lambda row: timing_of(row).latency <= 24,
        "latency 25 to 60": lambda row: 24 < timing_of(row).latency <= 60,
        "latency above 60": lambda row: timing_of(row).latency > 60,
        "below a beat per cycle": lambda row: timing_of(row).beats_per_256_cycles < 256,
        "refreshes together": lambda row: timing_of(row).refresh > 0 and timing_of(row).refresh_together,
        "refreshes apart": lambda row: timing_of(row).refresh > 0 and not timing_of(row).refresh_together,
        "below four bursts outstanding": lambda row: timing_of(row).outstanding < 4,
        "history buffer": lambda row: row.machine.history > 0,
        "up to 16 tokens": lambda row: row.context <= 16,
        "17 to 64 tokens": lambda row: 16 < row.context <= 64,
        "above 64 tokens": lambda row: row.context > 64,
        f"below {SHORT:,} cycles": lambda row: row.rtl < SHORT,
    }
    header = ["runs with", "runs", "median", "90th percentile", "largest", "beyond 3 %", "beyond 3 % and 300 cycles"]
    chosen = ((name, [row for row in rows if has(row)]) for name, has in features.items())
    title = "Timing engine against RTL on generated machines: magnitude of the cycles' error"
    return Table(title, header, [[name, *distribution(of)] for name, of in chosen if of])


def records(rows: Sequence[Row]) -> list[Record]:
    result = []
    for row in rows:
        m, memory = row.machine, row.machine.memory
        refresh = f"{memory.refresh} of {memory.refresh_interval}{'' if memory.refresh_together else ' apart'}"
        keys: Keys = {
            "target": f"{m.name}: {m.ports} x {m.port_bits} bits, latency {memory.latency}, rate {memory.rate:.3f}, refresh {refresh}",
            "model": f"program {row.number}",
            "context": str(row.context),
        }
        for engine, cycles in (("rtl", row.rtl), ("timing", row.timing)):
            result.append(Record("cycles", cycles, "cycle", "simulated", f"{engine} counters", **(keys | {"engine": engine})))
        result.append(Record("cycle_error", row.error, "ratio", "derived", "timing / rtl - 1", digits=".5f", **keys))
    return result


def report(log: Path, say: Say = lambda text: None) -> Report:
    """Errors of the runs in ``log``."""
    rows = study(log, say)
    worst = max(rows, key=lambda row: abs(row.error))
    said = f"Largest: {worst.machine.name}, program {worst.number}, {worst.error:+.2%} of {worst.rtl:,} cycles."
    plot = Plot("timing", lambda figure: draw(figure, rows), (8, 4), constrained=False)
    return Report([by_feature(rows)], [plot], [said], records(rows))


def draw(figure: Figure, rows: Sequence[Row]) -> None:
    """Error of every run over its cycles."""
    axis = figure.subplots()
    for bits in sorted({row.machine.port_bits for row in rows}):
        of = [row for row in rows if row.machine.port_bits == bits]
        axis.scatter([row.rtl for row in of], [100 * row.error for row in of], s=14, label=f"{bits}-bit ports")
    for bound in (-BOUND, BOUND):
        axis.axhline(100 * bound, color="#999999", linewidth=0.8, linestyle="--")
    axis.axhline(0, color="#444444", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_xlabel("RTL cycles of a run")
    axis.set_ylabel("timing engine, error in %")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, ncols=4)
    figure.tight_layout()


def variants(machine: Machine) -> dict[str, Machine]:
    """What decoding is counted on: latencies in cycles, clocks at the same nanoseconds, hot memory, refreshes at their own times."""
    memory = machine.memory
    result = {
        f"{latency} cycles": dataclasses.replace(machine, memory=dataclasses.replace(memory, latency=latency))
        for latency in sorted({*LATENCIES, memory.latency})
    }
    for clock in CLOCKS:
        if slower := at_clock(machine, clock):
            result[f"{clock} MHz"] = slower
    hot = dataclasses.replace(memory, refresh_interval=memory.refresh_interval // 2)
    result["refreshed twice as often"] = dataclasses.replace(machine, memory=hot)
    apart = dataclasses.replace(memory, refresh_together=False)
    result["refreshes of ports apart"] = dataclasses.replace(machine, memory=apart)
    return result


def decode_report(target: str = "u280", workload: Workload = DECODE) -> Report:
    """Decoding on every variant of ``target``."""
    chosen = variants(Machine.load(target))
    with ProcessPoolExecutor() as pool:
        parts = list(pool.map(estimate, chosen.values(), [workload] * len(chosen)))
    rows: list[list[Cell]] = []
    for name, part in zip(chosen, parts, strict=True):
        machine = f"{target}, {name}"
        keys: Keys = {
            "target": machine,
            "model": workload.model,
            "context": workload.context,
            "skip": float(workload.skip),
        }

        def cell(form: str, quantity: str, value: float, unit: str, digits: str, keys: Keys = keys) -> Cell:
            source = "timing engine, assumed clock"
            return shown(form, Record(quantity, value, unit, "simulated", source, digits=digits, **keys))

        rows.append(
            [
                machine,
                cell("{:.1f}", "decode_tokens_per_s", part.tokens_per_s, "token/s", ".1f"),
                cell("{:.1%}", "share_of_cap", part.share_of_cap, "ratio", ".4f"),
                cell("{:.1f}", "roof_tokens_per_s", part.roof, "token/s", ".1f"),
            ]
        )
    prompt, new = workload.prompt, workload.new
    title = f"Decoding of Llama-2-7B, [{prompt}, {new}], 25 % skipped, by latency, clock and refresh"
    return Report([Table(title, ["machine", "tokens/s", "of the cap", "roof of the same bytes, tokens/s"], rows)])
