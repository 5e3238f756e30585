"""What ``skipopu compare`` counts: the asked-for workload with and without skipping, and what surrounds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim import parallel
from sim.baselines import data
from sim.estimate import Estimate, Workload, estimate, workload_bytes
from skipopu.errors import SkipopuError
from skipopu.machine import limits
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.shapes import label, shape

PAPER_TARGET = "u280-paper"
PAPER_MODELS = ("llama-2-7b", "llama-2-13b")
SKIPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
PROMPTS = (128, 256, 512, 1024)
LONGEST = 4096  # tokens of the run whose speed is shown over its context
FIRST = 16  # its prompt
# What a GPU's record of a model should hold: (precision, skipped at all, policy)
WANTED = (("fp16", False, None), ("int4", False, None), ("int4", True, "reuse"), ("int4", True, "dense"))


@dataclass(frozen=True)
class Point:
    """One run of the timing engine; picklable."""

    machine: Machine
    workload: Workload
    config: ModelConfig | None = None
    routing: NDArray[np.bool_] | None = field(default=None, compare=False)


def evaluate(point: Point) -> Estimate:
    return estimate(point.machine, point.workload, point.config, point.routing)


@dataclass(frozen=True)
class Comparison:
    """Everything that a report shows.

    Attributes:
        skipping, dense: the workload as asked for, and with every module executed.
        dense_kv: as asked for, but every token's K and V computed; random routing of the same ratios where a trace was asked for.
        two_layer: with two-layer routers; None for a checkpoint.
        by_skip: the workload at other skip ratios, both KV policies.
        by_prompt: (dense, skipping) over prompt lengths.
        long: (dense, skipping), from a short prompt to the longest context that the machine takes.
        paper: the paper's runs with the paper's parameters, by model.
        measured: files of records measured on GPUs.
    """

    machine: Machine
    model: str
    config: ModelConfig
    skipping: Estimate
    dense: Estimate
    dense_kv: Estimate
    two_layer: Estimate | None
    by_skip: dict[str, dict[float, Estimate]]
    by_prompt: dict[int, tuple[Estimate, Estimate]]
    long: tuple[Estimate, Estimate]
    paper: dict[str, Estimate]
    measured: list[data.MeasuredFile]

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
    def gpu_rows(self) -> list[data.GpuRow]:
        """Published rows of the same model, fastest first."""
        rows = [row for row in data.gpus().rows if row.model == self.model]
        return sorted(rows, key=lambda row: -row.tokens_per_s)

    def formula_bytes(self, weights: str, skipped: float) -> float:
        """Bytes per token by formula, at the workload's mean context."""
        return workload_bytes(self.config, self.workload.mean_context, weights, skipped)

    def missing(self) -> list[tuple[str, bool, str | None]]:
        """Of WANTED, what no measured record holds for this model and context."""
        held = {
            (figure.precision, figure.skip > 0, figure.kv if figure.skip > 0 else None)
            for figure in self.measured_figures("decode_tokens_per_s")
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
) -> Comparison:
    """Runs everything on all cores, half a minute for Llama-2-7B on two; ``say`` gets (done, of) runs.

    ``config`` and ``routing`` are a checkpoint's shape and what its routers (or a trace) decided.

    Raises:
        SkipopuError: the model does not fit the machine, or a file of measured records is wrong.
    """
    known = config is None
    config = shape(workload.model) if config is None else config
    records = data.measured(measured)
    longest = min(LONGEST, limits.largest_context(machine, config))
    skip = workload.skip
    if routing is not None:
        # What surrounds the traced run is random with the trace's own ratios.
        skip = f"attn={1 - routing[1:, 0].mean():.4f},ffn={1 - routing[:, 1].mean():.4f}"
    around = replace(workload, skip=skip)
    points: dict[tuple[object, ...], Point] = {}

    def point(key: tuple[object, ...], part: Workload, on: Machine = machine) -> None:
        points[key] = Point(on, part, None if on is not machine else config)

    points["asked",] = Point(machine, workload, config, routing)
    point(("dense",), replace(around, skip="0"))
    for name, part in (("dense", "0"), ("skipping", skip)):
        point(("long", name), replace(around, skip=part, prompt=FIRST, new=longest - FIRST))
        for prompt in PROMPTS:
            if prompt + 2 <= longest:
                point(("prompt", prompt, name), replace(around, skip=part, prompt=prompt, new=2))
    for ratio in SKIPS:
        for policy in ("reuse", "dense"):
            point(("skip", policy, ratio), replace(around, skip=str(ratio), kv=policy))
    point(("policy",), replace(around, kv="dense"))
    if known:
        point(("two-layer",), replace(around, routers="two-layer"))
    paper = data.fpgas().paper
    prompt, new = (int(part) for part in paper.context.split("+"))
    for name in PAPER_MODELS:
        point(("paper", name), Workload(name, prompt, new, str(paper.skip)), Machine.load(PAPER_TARGET))

    keys, jobs = list(points), list(points.values())
    results: dict[tuple[object, ...], Estimate] = {}
    with parallel.executor("local", workers) as pool:
        for number, outcome in parallel.finished(pool, evaluate, jobs):
            if isinstance(outcome, SkipopuError):
                pool.shutdown(cancel_futures=True)
                raise outcome
            results[keys[number]] = outcome
            say(len(results), len(jobs))
    prompts = [prompt for prompt in PROMPTS if ("prompt", prompt, "dense") in results]
    return Comparison(
        machine,
        label(workload.model),
        config,
        results["asked",],
        results["dense",],
        results["policy",],
        results.get(("two-layer",)),
        {policy: {ratio: results["skip", policy, ratio] for ratio in SKIPS} for policy in ("reuse", "dense")},
        {prompt: (results["prompt", prompt, "dense"], results["prompt", prompt, "skipping"]) for prompt in prompts},
        (results["long", "dense"], results["long", "skipping"]),
        {name: results["paper", name] for name in PAPER_MODELS},
        records,
    )
