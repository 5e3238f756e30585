"""What attention reads of keys and values, and how fast, by the timing engine's formulas."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.timing.costs import Costs
from sim.timing.history import valid_layers
from skipopu.layout import KvEntry
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.report import Cell, Keys, Record, shown


@dataclass(frozen=True)
class Traffic:
    """Reads of some ATTEND instructions.

    Attributes:
        reads, hits: entries read, of those from the history buffer.
        bytes: of these entries.
        seconds: in which attention multiplied or waited for them.
        whole: seconds of the instructions from start to end.
    """

    reads: int
    hits: int
    bytes: int
    seconds: float
    whole: float

    @property
    def hit_rate(self) -> float:
        return self.hits / self.reads

    @property
    def bandwidth(self) -> float:
        """GB/s, hits counted: bytes / seconds."""
        return self.bytes / self.seconds / 1e9

    @property
    def whole_bandwidth(self) -> float:
        """GB/s, hits counted, over whole instructions: bytes / whole."""
        return self.bytes / self.whole / 1e9


def by_token(layer: NDArray[np.int64], rank: NDArray[np.int64], ports: int) -> NDArray[np.int64]:
    """Ports of the entries: tokens go round them, whatever the layer. The machine's mapping."""
    return np.arange(len(layer)) % ports


def by_counter(layer: NDArray[np.int64], rank: NDArray[np.int64], ports: int) -> NDArray[np.int64]:
    """Ports of the entries when each layer's executed tokens go round them, each layer on its own."""
    return rank[layer, np.arange(len(layer))] % ports


def traffic(
    machine: Machine,
    model: ModelConfig,
    executed: NDArray[np.bool_],
    positions: Iterable[int],
    capacity: int = 0,
    stride: int | None = None,
    ports_of: Callable[..., NDArray[np.int64]] = by_token,
) -> Traffic:
    """What decoding the tokens at ``positions`` reads in the layers after the first, by the timing engine's formulas.

    executed: bool (layers, tokens) of attention. capacity: tokens of the history buffer. stride: the decoded token attends in
    every ``stride``-th layer; None: where ``executed`` says so. The present layer's entries are compared with those of the layer
    that was attended to before.
    """
    entry, costs = KvEntry(model.num_kv_heads, model.head_dim, machine), Costs(machine)
    layers, ports = len(executed), machine.ports
    valid = valid_layers(executed)
    rank = np.cumsum(executed, 1) - 1
    reads = hits = busy = whole = 0
    for t in positions:
        attended = np.flatnonzero(executed[:, t]) if stride is None else np.arange(0, layers, stride)
        for before, layer in itertools.pairwise(attended):
            present = valid[layer, : t + 1]
            hit = (present == valid[before, : t + 1]) & (np.arange(t + 1) < capacity)
            port = ports_of(present, rank, ports)
            held, all_of = np.bincount(port[hit], minlength=ports), np.bincount(port, minlength=ports)
            queries = model.queries_per_kv_head
            misses = int((all_of - held).max())
            beats = misses * entry.key_beats, misses * (entry.beats - entry.key_beats)
            part = costs.attend(
                [0],
                int(all_of.max()),
                min(t + 1, ports),
                beats,
                int(held.min()),
                entry,
                queries,
                model.head_dim,
                serial=False,
                capped=bool(model.attention_cap),
            )
            reads, hits = reads + t + 1, hits + int(hit.sum())
            busy, whole = busy + part.busy + part.memory, whole + part.cycles
    clock = machine.clock_mhz * 1e6
    return Traffic(reads, hits, reads * entry.beats * machine.beat_bytes, busy / clock, whole / clock)


MAPPINGS = {"per-layer counter": by_counter, "by token": by_token}


def cell(part: Traffic, source: str, keys: Keys) -> Cell:
    """Hit rate and GB/s."""
    return shown(
        "{:.1%}, {:.0f}",
        Record("kv_hit_rate", part.hit_rate, "ratio", "simulated", source, digits=".4f", **keys),
        Record("kv_bandwidth", part.bandwidth, "GB/s", "simulated", source, digits=".1f", **keys),
    )
