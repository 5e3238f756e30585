"""Study ``kv``: how fast attention reads keys and values, what the history buffer spares, and what they occupy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.checkpoint import load
from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim.estimate import Workload, estimate
from sim.functional import engine as functional
from sim.result import Routed
from sim.routing import independent
from sim.rtl import engine as rtl
from sim.rtl import memory as rtl_memory
from sim.timing import engine as timing
from sim.timing.costs import Costs
from sim.timing.history import valid_layers
from skipopu.errors import SkipopuError
from skipopu.isa.program import Run
from skipopu.layout import KvEntry
from skipopu.machine import limits
from skipopu.machine.config import Machine
from skipopu.machine.memory import HBM2
from skipopu.model_config import ModelConfig
from skipopu.shapes import SHAPES

Say = Callable[[str], None]

TARGET, SHAPE = "u280", "llama-2-7b"
SKIP, SEED = 0.25, 0
PROMPT, NEW = 128, 1024  # the paper's run
WINDOW = range(1016, 1032, 2)  # decoded positions around the history buffer's capacity
CONTEXTS = (512, 1024, 2048, 4096, 8192)
SKIPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
CAPACITIES = (0, 256, 512, 1024, 2048, 4096, 8192)
SMALL = 16  # tokens of a history buffer that is too small
TEXT = 320  # bytes of held-out text whose routing is recorded

# GB/s on the board (arXiv 2603.14785).
PUBLISHED = {
    "dense": 408.7,
    "reuse, plain interleaving": 257.0,
    "reuse, token in one port": 360.2,
    "+ history buffer": 467.8,
    "+ history buffer, every second layer": 383.0,
}
# U280, one 512-bit AXI master at 300 MHz, reads: bytes per transaction, GB/s; channels of the random patterns.
SIZES = (64, 128, 256, 512, 1024)
MEASURED = {
    "sequential, 1 channel": (13.10, 13.07, 13.10, 13.07, 13.04),
    "random, 1 channel": (4.75, 9.60, 12.62, 13.13, 13.16),
    "random, 2 channels": (0.76, 1.50, 2.71, 4.50, 6.55),
    "random, 4 channels": (0.55, 1.07, 1.99, 3.50, 5.53),
}
MASTER_MHZ, MASTER_ISSUE = 300.0, 4  # cycles between that kernel's random addresses


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
                [0], int(all_of.max()), min(t + 1, ports), beats, int(held.min()), entry, queries, model.head_dim, False
            )
            reads, hits = reads + t + 1, hits + int(hit.sum())
            busy, whole = busy + part.busy + part.memory, whole + part.cycles
    clock = machine.clock_mhz * 1e6
    return Traffic(reads, hits, reads * entry.beats * machine.beat_bytes, busy / clock, whole / clock)


MAPPINGS = {"per-layer counter": by_counter, "by token": by_token}


@dataclass(frozen=True)
class Point:
    """One of the paper's bandwidth points under every mapping: around the buffer's capacity, and over the whole run.

    ``nearest`` is the mapping that the paper's figure fits best, chosen after seeing both, and ``why`` what speaks for it.
    """

    name: str
    here: dict[str, Traffic]
    run: dict[str, Traffic]
    nearest: str | None
    why: str


def points(machine: Machine, model: ModelConfig) -> list[Point]:
    """The paper's five points, each under both mappings."""
    capacity = limits.history_slots(machine, model) * machine.ports
    some = independent(model.num_layers, PROMPT + NEW, SKIP, SKIP, SEED)[:, 0]
    every = np.ones_like(some)
    whole = range(PROMPT, PROMPT + NEW, 16)

    def both(
        name: str, nearest: str | None, why: str, executed: NDArray[np.bool_] = some, stride: int = 1, kept: int = 0
    ) -> Point:
        def under(positions: Iterable[int]) -> dict[str, Traffic]:
            return {
                mapping: traffic(machine, model, executed, positions, kept, stride, ports_of)
                for mapping, ports_of in MAPPINGS.items()
            }

        return Point(name, under(WINDOW), under(whole), nearest, why)

    counter, token = MAPPINGS
    return [
        both("dense", None, "both mappings are the same: every token has an entry", every),
        Point("reuse, plain interleaving", {}, {}, None, "not reproduced, see below"),
        both(
            "reuse, token in one port",
            counter,
            "as the paper describes it: reused entries load ports unevenly, all wait for the fullest",
        ),
        both(
            "+ history buffer",
            token,
            "not what the paper describes: the counter's misses and hits together are uneven, so its buffer must gain otherwise",
            kept=capacity,
        ),
        both(
            "+ history buffer, every second layer",
            counter,
            "as the paper describes it: few hits, so that the uneven ports show again",
            stride=2,
            kept=capacity,
        ),
    ]


@dataclass(frozen=True)
class Sweep:
    """Hit rate and bandwidth by (skip ratio, layers between attended ones), over contexts or capacities."""

    title: str
    label: str
    at: tuple[int, ...]
    rows: dict[tuple[float, int], list[Traffic]]


def sweeps(machine: Machine, model: ModelConfig) -> list[Sweep]:
    capacity = limits.history_slots(machine, model) * machine.ports
    longest = max(CONTEXTS)
    traces = {skip: independent(model.num_layers, longest, skip, skip, SEED)[:, 0] for skip in SKIPS}

    def at(skip: float, stride: int, context: int, kept: int) -> Traffic:
        return traffic(machine, model, traces[skip], (context - 1,), kept, stride)

    kinds = [(skip, stride) for stride in (1, 2) for skip in SKIPS]
    over_context = {kind: [at(*kind, n, capacity) for n in CONTEXTS] for kind in kinds}
    over_capacity = {kind: [at(*kind, PROMPT + NEW, n) for n in CAPACITIES] for kind in kinds if kind[0] in (0.25, 0.3, 0.5)}
    return [
        Sweep(f"history buffer of {capacity} tokens, by context", "context", CONTEXTS, over_context),
        Sweep(f"context {PROMPT + NEW}, by tokens of the history buffer", "tokens kept", CAPACITIES, over_capacity),
    ]


@dataclass(frozen=True)
class Trace:
    """Hit rates of a decoded token's reads under some routing; ``skipped`` is the share of attention that it skips."""

    name: str
    skipped: float
    hit_rate: float


def hit_rate(executed: NDArray[np.bool_]) -> float:
    """Over all tokens as decoded ones, where they attend, the first layer left out; every token is kept."""
    valid = valid_layers(executed)
    hits = reads = 0
    for t in range(executed.shape[1]):
        attended = np.flatnonzero(executed[:, t])
        same = valid[attended[1:], : t + 1] == valid[attended[:-1], : t + 1]
        hits, reads = hits + int(same.sum()), reads + same.size
    return hits / reads


def traces(model: Path, say: Say) -> list[Trace]:
    """The shipped model's routing of held-out text beside random routing."""
    say("routing of held-out text")
    checkpoint = load(model, None)
    text = (model / "heldout.txt").read_bytes()[:TEXT]
    machine = Machine.load("tiny").with_chunk(64)
    program = compile_checkpoint(checkpoint, machine, context=TEXT)
    real = functional.run(program, Run(tuple(text), 0)).routing[:, 0]
    rng = np.random.default_rng(SEED)
    by_layer = rng.random(real.shape) < real.mean(1, keepdims=True)
    ratio = 1 - float(real[1:].mean())
    alike = independent(len(real), TEXT, ratio, 0, SEED)[:, 0]
    by_layer[0] = True
    rows = [("the model's routers", real), ("random, each layer's own ratio", by_layer), ("random, one ratio", alike)]
    return [Trace(name, 1 - float(x[1:].mean()), hit_rate(x)) for name, x in rows]


@dataclass(frozen=True)
class Simulated:
    """One setting of the history buffer on the small machine: counters in RTL and predicted."""

    name: str
    rtl: dict[str, int]
    timing: dict[str, int]


def simulate(model: Path, say: Say) -> tuple[list[Simulated], Routed, int]:
    """The shipped model on ``tiny`` at 25 % random skips; raises unless tokens and reads are what they must be."""
    checkpoint, machine = load(model, None), Machine.load("tiny")
    text = (model / "heldout.txt").read_bytes()[:48]
    layers = checkpoint.config.num_layers
    rows: list[Simulated] = []
    settings: list[tuple[str, int | None, bool]] = [("off", 0, False), ("on", None, False)]
    settings += [(f"too small, {SMALL} tokens", SMALL, False), ("on, filled ahead", None, True)]
    run = Run(tuple(text), 16, routing=independent(layers, 64, SKIP, SKIP, SEED))
    expected, entry = Routed(tokens=[], routing=np.zeros((0, 0, 0), bool)), 0
    for name, history, prefetch in settings:
        say(f"RTL of {machine.name}, history buffer {name}")
        program = compile_checkpoint(checkpoint, machine, context=64, history=history, prefetch=prefetch)
        entry = KvEntry(checkpoint.config.num_kv_heads, checkpoint.config.head_dim, machine).size
        expected = functional.run(program, run)
        seen = rtl.run(program, run)
        if seen.tokens != expected.tokens:
            raise SkipopuError(f"history buffer {name}: RTL gives {seen.tokens}, the functional engine {expected.tokens}")
        counters = seen.counters
        rows.append(Simulated(name, counters, timing.run(program, run, timing.Options(expected)).counters))
        spared = rows[0].rtl["READ_BEATS"] - counters["READ_BEATS"]
        if spared != counters["HISTORY_BEATS"] - counters["AHEAD_BEATS"]:
            raise SkipopuError(f"history buffer {name}: {spared} beats fewer were read than without it: not the hits")
    return rows, expected, entry


@dataclass(frozen=True)
class Storage:
    """Entries of a run: allocated, of all (layer, token) pairs, and in reserved pages (one entry in every port each)."""

    name: str
    executed: int
    allocated: int
    pairs: int
    reserved: int
    entry: int


def storage(simulated: Routed, entry: int, machine: Machine, model: ModelConfig) -> list[Storage]:
    """The small machine's run, and the paper's run on the large one."""
    large = independent(model.num_layers, PROMPT + NEW, SKIP, SKIP, SEED)
    program = compile_checkpoint(outline(SHAPE), machine, context=PROMPT + NEW + 1)
    routed = Routed(tokens=[0] * NEW, routing=large)
    counted = timing.run(program, Run((0,) * PROMPT, NEW), timing.Options(routed)).kv_entries
    rows = []
    for name, routing, ports, allocated, size in (
        ("shipped model on tiny", simulated.routing, Machine.load("tiny").ports, simulated.kv_entries, entry),
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


def calibration(say: Say) -> dict[str, list[tuple[float, float, float]]]:
    """(measured, formula, RTL memory) in GB/s per transaction size, for every published pattern of the U280."""
    say("RTL memory against published points")
    cycle, beat = 1000 / MASTER_MHZ, 64
    timed = HBM2.timing(MASTER_MHZ, beat)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for name, measured in MEASURED.items():
        sequential, channels = name.startswith("sequential"), int(name.split()[1])
        issue = 1 if sequential else MASTER_ISSUE
        behaviour = replace(timed, issue=issue, channel=22)
        # That kernel merges what it reads in sequence into long bursts.
        beats = [16 if sequential else size // beat for size in SIZES]
        simulated = rtl_memory.bandwidth(behaviour, beats, sequential, channels)
        rows[name] = [
            (seen, size / HBM2.transaction(size, 1 - 1 / channels, 0 if sequential else issue * cycle), rate * beat / cycle)
            for size, seen, rate in zip(SIZES, measured, simulated, strict=True)
        ]
    return rows


@dataclass(frozen=True)
class Study:
    machine: Machine
    calibration: dict[str, list[tuple[float, float, float]]]
    points: list[Point]
    sweeps: list[Sweep]
    heads: dict[str, list[Traffic]]
    traces: list[Trace]
    simulated: list[Simulated]
    storage: list[Storage]
    decode: dict[str, float]


def study(model: Path, say: Say = lambda text: None) -> Study:
    """Runs everything; about a minute, and two more when the RTL is not built yet."""
    machine, config = Machine.load(TARGET), outline(SHAPE).config
    measured = calibration(say)
    say(f"{SHAPE} on {TARGET}: the paper's points")
    five = points(machine, config)
    say("contexts, skip ratios, capacities")
    swept = sweeps(machine, config)
    heads = {}
    for name in SHAPES:
        other = outline(name).config
        capacity = limits.history_slots(machine, other) * machine.ports
        some = independent(other.num_layers, max(CONTEXTS), SKIP, SKIP, SEED)[:, 0]
        heads[name] = [traffic(machine, other, some, (n - 1,), capacity) for n in CONTEXTS]
    rows, last, entry = simulate(model, say)
    say("decoding with and without the history buffer")
    run = Workload(SHAPE, PROMPT, NEW, str(SKIP), seed=SEED)
    rates = {
        name: estimate(machine, replace(run, history=history)).tokens_per_s for name, history in (("off", 0), ("on", None))
    }
    return Study(machine, measured, five, swept, heads, traces(model, say), rows, storage(last, entry, machine, config), rates)
