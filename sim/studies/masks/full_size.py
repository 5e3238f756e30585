"""What leaving out input channels is worth at full size: Llama-2-7B on a machine with masks, by the timing engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from sim.estimate import Estimate, Workload, estimate
from skipopu.machine.config import Machine
from skipopu.report import Cell, Keys, Record, Table, shown

TARGET, MODEL, PROMPT, NEW = "u280-masks", "llama-2-7b", 128, 1024
SOURCE = "timing engine, assumed clock, independent skips and channels, seed 0"
# Modules skipped, channels masked; without thresholds at all where that is None.
POINTS: tuple[tuple[str, float | None], ...] = (
    ("0", None),
    ("0.25", None),
    ("0", 0.4),
    ("0", 0.5),
    ("0.25", 0.25),
    ("0.25", 0.4),
    ("0.25", 0.5),
)
MEMORIES: dict[str, dict[str, int]] = {
    "as described": {},
    "16 bursts outstanding": {"outstanding": 16},
    "an address every 3 cycles": {"issue": 3},
    "an address every 4 cycles": {"issue": 4},
}
GROUPS, BY_GROUP = (256, 512), (POINTS[1], POINTS[2], POINTS[5])


@dataclass(frozen=True)
class Job:
    """A row: a machine, the modules and the channels that are left out, weights per scale."""

    machine: Machine
    skip: str
    masked: float | None
    group: int = 128

    @property
    def left_out(self) -> str:
        return f"{float(self.skip):.0%} of modules, " + (
            "no masks" if self.masked is None else f"{self.masked:.0%} of channels"
        )


def counted(job: Job) -> Estimate:
    return estimate(job.machine, Workload(MODEL, PROMPT, NEW, job.skip, masked=job.masked, group=job.group))


def cells(job: Job, part: Estimate) -> list[Cell]:
    """One row's figures."""
    figures = (
        ("{:.1f}", "decode_tokens_per_s", part.tokens_per_s, "token/s", ".1f"),
        ("{:.1f}", "roof_tokens_per_s", part.roof, "token/s", ".1f"),
        ("{:.2f}", "gigabytes_per_token", part.bytes_per_token / 1e9, "GB", ".3f"),
        ("{:.0f}", "time_to_first_token_ms", 1e3 * part.time_to_first_token, "ms", ".1f"),
    )
    keys: Keys = {
        "target": job.machine.name,
        "model": MODEL,
        "context": f"{PROMPT}+{NEW}",
        "skip": float(job.skip),
        "masked": job.masked,
    }
    if job.group != Job.group:
        keys["precision"] = f"INT4, {job.group} weights per scale"
    return [
        shown(form, Record(name, value, unit, "simulated", SOURCE, digits=digits, **keys))
        for form, name, value, unit, digits in figures
    ]


def table(title: str, first: str, jobs: Mapping[str, Job], say: Callable[[str], None]) -> Table:
    """A row for each job."""
    say(title)
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(counted, jobs.values()))
    rows = [[name, *cells(job, part)] for (name, job), part in zip(jobs.items(), found, strict=True)]
    columns = [first, "tokens/s", "roof of the same bytes", "GB per token", "first token, ms"]
    return Table(title, columns, rows)


def tables(say: Callable[[str], None]) -> list[Table]:
    """By what is left out, by what short reads cost, and by what lies beside the weights."""
    machine = Machine.load(TARGET)
    named = {job.left_out: job for job in (Job(machine, *point) for point in POINTS)}
    memories = {
        name: Job(dataclasses.replace(machine, memory=dataclasses.replace(machine.memory, **change)), "0.25", 0.4)
        for name, change in MEMORIES.items()
    }
    groups = {
        f"{group}, {job.left_out}": job for group in GROUPS for job in (Job(machine, *point, group) for point in BY_GROUP)
    }
    where = f"Llama-2-7B on {TARGET}, [{PROMPT}, {NEW}]"
    return [
        table(f"{where}, by what is left out", "left out", named, say),
        table(f"{where}, 25 % of modules and 40 % of channels left out, by memory", "memory", memories, say),
        table(f"{where}, by weights per scale", "weights per scale, left out", groups, say),
    ]
