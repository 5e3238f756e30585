"""Entries that a run allocates, and what the history buffer is worth in decoding."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim.estimate import Workload, estimate
from sim.result import Computed, Routed
from sim.routing import independent
from sim.studies.kv.setting import KEYS, NEW, PROMPT, SEED, SHAPE, SKIP, SMALL_TARGET, TARGET
from sim.timing import engine as timing
from skipopu.layout import KvEntry
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.program.run import Run
from skipopu.report import Cell, Keys, Record, Report, Table, shown


@dataclass(frozen=True)
class Storage:
    """Entries of a run: allocated, of all (layer, token) pairs, and in reserved pages (one entry in every port each)."""

    name: str
    executed: int
    allocated: int
    pairs: int
    reserved: int
    entry: int


def storage(simulated: Computed, entry: int, machine: Machine, model: ModelConfig) -> list[Storage]:
    """The small machine's run, and the paper's run on the large one."""
    large = independent(model.num_layers, PROMPT + NEW, SKIP, SKIP, SEED)
    program = compile_checkpoint(outline(SHAPE), machine, context=PROMPT + NEW + 1)
    routed = Routed(tokens=[0] * NEW, routing=large)
    counted = timing.run(program, Run((0,) * PROMPT, NEW), timing.Options(routed)).kv_entries
    rows = []
    for name, routing, ports, allocated, size in (
        (f"shipped model on {SMALL_TARGET}", simulated.routing, Machine.load(SMALL_TARGET).ports, simulated.kv_entries, entry),
        (
            f"{SHAPE} on {TARGET}",
            large[..., :-1],
            machine.ports,
            counted,
            KvEntry(model.num_kv_heads, model.head_dim, machine).size,
        ),
    ):
        executed = routing[:, 0]
        fullest = np.bincount(np.nonzero(executed)[1] % ports, minlength=ports).max()
        rows.append(Storage(name, int(executed.sum()), allocated, executed.size, int(fullest) * ports, size))
    return rows


def report(of: list[Storage]) -> Report:
    rows: list[list[Cell]] = []
    listed: list[Record] = []
    for s in of:

        def put(name: str, value: int, unit: str = "entry", s: Storage = s) -> Record:
            listed.append(Record(name, value, unit, "simulated", s.name, skip=SKIP))
            return listed[-1]

        allocated, executed = put("kv_entries", s.allocated), put("attention_executed", s.executed)
        reserved, size = put("kv_entries_reserved", s.reserved), put("kv_bytes", s.allocated * s.entry, "byte")
        rows.append(
            [
                s.name,
                shown("{:,}", executed),
                shown("{:,}", allocated),
                f"{s.allocated / s.pairs:.1%}",
                shown("{:,}", size),
                shown(lambda held, used: f"{held:,} ({held / used - 1:+.1%})", reserved, allocated),
            ]
        )
    columns = ["run", "attention executed", "entries allocated", "of all", "bytes", "in reserved pages"]
    return Report([Table("Storage: allocated entries", columns, rows)], listed=listed)


def decode_report(machine: Machine) -> Report:
    """Tokens per second with and without the history buffer."""
    run = Workload(SHAPE, PROMPT, NEW, str(SKIP), seed=SEED)
    clock = f"an assumed {machine.clock_mhz:g} MHz"
    rows: list[list[Cell]] = []
    for name, history in (("off", 0), ("on", None)):
        rate = estimate(machine, replace(run, history=history)).tokens_per_s
        source = f"history buffer {name}, {clock.removeprefix('an ')}"
        keys: Keys = KEYS | {"context": run.context}
        record = Record("decode_tokens_per_s", rate, "token/s", "simulated", source, digits=".2f", **keys)
        rows.append([f"history buffer {name}", shown("{:.1f}", record)])
    columns = [f"{SHAPE} on {TARGET}, [{PROMPT}, {NEW}], 25 % skipped", "tokens per second"]
    return Report([Table(f"Decoding at {clock}", columns, rows)])
