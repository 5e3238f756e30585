"""What ``skipopu compare`` counts: the asked-for workload with and without skipping, and what surrounds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim import parallel
from sim.baselines import data
from sim.estimate import Estimate, Workload, estimate, weight_bytes, workload_bytes
from sim.mask_traces import TO_LEAVE_OUT, with_masks
from sim.masks import Active
from skipopu.errors import SkipopuError
from skipopu.machine.clock import at_clock
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.shapes import label, shape

PAPER_TARGET = "u280-paper"
PAPER_MODELS = ("llama-2-7b", "llama-2-13b")
SKIPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
PROMPTS = (128, 256, 512, 1024)
LONGEST = 4096  # tokens of the run whose speed is shown over its context
FIRST = 16  # its prompt
CLOCKS = (1, 8 / 9, 7 / 9, 2 / 3, 5 / 9, 4 / 9, 1 / 3)  # of the assumed one: 225 MHz and downwards by 25
# What a GPU's record of a model should hold: (precision, skipped at all, policy)
WANTED = (("fp16", False, None), ("int4", False, None), ("int4", True, "reuse"), ("int4", True, "dense"))


@dataclass(frozen=True)
class Point:
    """One run of the timing engine; picklable."""

    machine: Machine
    workload: Workload
    config: ModelConfig | None = None
    routing: NDArray[np.bool_] | None = field(default=None, compare=False)
    active: Active | None = field(default=None, compare=False)


def evaluate(point: Point) -> Estimate:
    return estimate(point.machine, point.workload, point.config, point.routing, point.active)


@dataclass(frozen=True)
class Comparison:
    """Everything that a report shows. What does not fit the machine beside the workload itself is missing.

    Attributes:
        skipping, dense: the workload as asked for, and with every module executed.
        dense_kv: as asked for, but every token's K and V computed; random routing of the same ratios where a trace was asked for.
        two_layer: with two-layer routers; None for a checkpoint.
        by_skip: the workload at other skip ratios, both KV policies.
        by_prompt: (dense, skipping) over prompt lengths; at the workload's own, the workload itself.
        by_clock: (dense, skipping) by MHz, the memory as fast as before.
        long: (dense, skipping), from a short prompt to the longest context that the machine takes.
        paper: the paper's runs with the paper's parameters, by model.
        measured: files of records measured on GPUs.
        left_out: a sentence for each run that does not fit.
        masked: (dense, skipping) with input channels masked; None where that was not asked for. Nothing else here has masks.
        ahead: without routers, what executes is known in front of each layer; None for a checkpoint.
        replayed: the masks of the skipping one were recorded, not drawn.
    """

    machine: Machine
    model: str
    config: ModelConfig
    skipping: Estimate
    dense: Estimate
    dense_kv: Estimate | None
    two_layer: Estimate | None
    by_skip: dict[str, dict[float, Estimate]]
    by_prompt: dict[int, tuple[Estimate, Estimate]]
    by_clock: dict[float, tuple[Estimate, Estimate]]
    long: tuple[Estimate, Estimate] | None
    paper: dict[str, Estimate]
    measured: list[data.MeasuredFile]
    left_out: tuple[str, ...] = ()
    masked: tuple[Estimate, Estimate] | None = None
    replayed: bool = False
    ahead: Estimate | None = None

    @property
    def workload(self) -> Workload:
        return self.skipping.workload

    @property
    def skipped(self) -> float:
        """Share of all modules that were skipped."""
        return 1 - (self.skipping.attention + self.skipping.ffn) / 2

    @property
    def ratio(self) -> float:
        """The skip ratio that was asked for, where one holds for everything; else the share that was skipped."""
        try:
            return float(self.workload.skip)
        except ValueError:
            return self.skipped

    @property
    def masked_share(self) -> float:
        """Share of the layers' weights that masks left out, of those that a generated token would have read."""
        return 0.0 if self.masked is None else self.masked[1].workload.masked or 0.0

    @property
    def masked_runs(self) -> list[tuple[Estimate, float]]:
        """Runs with input channels masked, and what each skips."""
        return [] if self.masked is None else [(self.masked[0], 0.0), (self.masked[1], self.skipped)]

    @property
    def how_masked(self) -> str:
        """Of the skipping run's masks; those of the dense one are drawn."""
        return "as recorded" if self.replayed else "drawn independently"

    @property
    def gpu_rows(self) -> list[data.GpuRow]:
        """Published rows of the same model, fastest first."""
        rows = [row for row in data.gpus().rows if row.model == self.model]
        return sorted(rows, key=lambda row: -row.tokens_per_s)

    def formula_bytes(self, weights: str, skipped: float, masked: float = 0.0) -> float:
        """Bytes per token by formula, at the workload's mean context."""
        return workload_bytes(self.config, self.workload.mean_context, weights, skipped, masked)

    def weight_share(
        self, tokens_per_s: float, peak: float, bits: float, head_bits: float | None = None, skipped: float = 0.0
    ) -> float:
        """Share of ``peak`` bytes/s by the one rule for every system: weights that a token reads x tok/s / peak."""
        return weight_bytes(self.config, bits, head_bits, skipped) * tokens_per_s / peak

    def missing(self) -> list[tuple[str, bool, str | None]]:
        """Of WANTED, what no measured record holds for this model and context."""
        held = {
            (figure.precision, figure.skip > 0, figure.kv if figure.skip > 0 else None)
            for figure in self.measured_figures("decode_tokens_per_s")
            if figure.masked is None
        }
        return [wanted for wanted in WANTED if wanted not in held]

    def measured_figures(self, name: str) -> list[data.MeasuredFigure]:
        """Measured figures of this model and context."""
        of = (self.model, self.workload.context)
        return [
            figure
            for file in self.measured
            for figure in file.records
            if figure.name == name and (figure.model, figure.context) == of
        ]


def compare(
    machine: Machine,
    workload: Workload,
    config: ModelConfig | None = None,
    routing: NDArray[np.bool_] | None = None,
    measured: Sequence[Path] = (),
    workers: int | None = None,
    say: Callable[[int, int], None] = lambda done, of: None,
    active: Active | None = None,
) -> Comparison:
    """Runs everything on all cores, a minute for Llama-2-7B on two; ``say`` gets (done, of) runs.

    ``config`` and ``routing`` are a checkpoint's shape and what its routers (or a trace) decided, ``active`` masks that were recorded.

    Raises:
        SkipopuError: the workload does not fit the machine, or a file of measured records is wrong.
    """
    known = config is None
    config = shape(workload.model) if config is None else config
    records = data.measured(measured)
    checkpoint, share = outline(workload.model, config=config), workload.masked
    workload, largest = replace(workload, masked=None), checkpoint
    if share is not None:
        machine.require_masks(TO_LEAVE_OUT)
        largest = with_masks(checkpoint)
    compile_checkpoint(largest, machine, workload.kv, context=workload.prompt + workload.new)  # fails before anything runs
    longest = min(LONGEST, compile_checkpoint(checkpoint, machine).context)
    skip = workload.skip
    if routing is not None:
        # What surrounds the traced run is random with the trace's own ratios.
        skip = f"attn={1 - routing[1:, 0].mean():.4f},ffn={1 - routing[:, 1].mean():.4f}"
    around = replace(workload, skip=skip)
    points: dict[tuple[object, ...], Point] = {}

    def point(key: tuple[object, ...], part: Workload, on: Machine = machine, of: ModelConfig | None = config) -> None:
        points[key] = Point(on, part, of)

    points["asked",] = Point(machine, workload, config, routing)
    point(("dense",), replace(around, skip="0"))
    if share is not None:
        point(("masked", "dense"), replace(around, skip="0", masked=share))
        points["masked", "skipping"] = Point(machine, replace(workload, masked=share), config, routing, active)
    prompts = [prompt for prompt in PROMPTS if prompt + 2 <= longest and prompt != workload.prompt]
    clocks = [round(machine.clock_mhz * part, 3) for part in CLOCKS]
    for name, part in (("dense", "0"), ("skipping", skip)):
        point(("long", name), replace(around, skip=part, prompt=FIRST, new=longest - FIRST))
        for prompt in prompts:
            point(("prompt", prompt, name), replace(around, skip=part, prompt=prompt, new=2))
        for clock in clocks[1:]:
            if slower := at_clock(machine, clock):
                points["clock", clock, name] = Point(slower, replace(around, skip=part), config)
    for ratio in SKIPS:
        for policy in ("reuse", "dense"):
            point(("skip", policy, ratio), replace(around, skip=str(ratio), kv=policy))
    point(("policy",), replace(around, kv="dense"))
    if known:
        point(("two-layer",), replace(around, routers="two-layer"))
        point(("ahead",), replace(around, routers="none"))
    paper = data.fpgas().paper
    prompt, new = (int(part) for part in paper.context.split("+"))
    for name in PAPER_MODELS:
        point(("paper", name), Workload(name, prompt, new, str(paper.skip)), Machine.load(PAPER_TARGET), None)

    keys, jobs = list(points), list(points.values())
    results: dict[tuple[object, ...], Estimate] = {}
    failed: dict[tuple[object, ...], SkipopuError] = {}
    with parallel.executor("local", workers) as pool:
        for number, outcome in parallel.finished(pool, evaluate, jobs):
            key = keys[number]
            if isinstance(outcome, SkipopuError):
                if key in (("asked",), ("dense",)) or key[0] in ("paper", "masked"):
                    pool.shutdown(cancel_futures=True)
                    raise outcome
                failed[key] = outcome
            else:
                results[key] = outcome
            say(len(results) + len(failed), len(jobs))

    def pair(*key: object) -> tuple[Estimate, Estimate] | None:
        both = [results.get((*key, name)) for name in ("dense", "skipping")]
        return None if both[0] is None or both[1] is None else (both[0], both[1])

    dense, asked = own = results["dense",], results["asked",]
    by_prompt = {workload.prompt: own} | {n: found for n in prompts if (found := pair("prompt", n))}
    return Comparison(
        machine,
        label(workload.model),
        config,
        asked,
        dense,
        results.get(("policy",)),
        results.get(("two-layer",)),
        {policy: {r: results[key] for r in SKIPS if (key := ("skip", policy, r)) in results} for policy in ("reuse", "dense")},
        dict(sorted(by_prompt.items())),
        {machine.clock_mhz: own} | {clock: found for clock in clocks if (found := pair("clock", clock))},
        pair("long"),
        {name: results["paper", name] for name in PAPER_MODELS},
        records,
        (
            *(f"Prompts of {n} tokens are left out: the machine holds {longest}." for n in PROMPTS if n + 2 > longest),
            *(f"Left out, {' '.join(map(str, key))}: {str(error).rstrip('.')}." for key, error in failed.items()),
        ),
        pair("masked"),
        active is not None,
        results.get(("ahead",)),
    )
