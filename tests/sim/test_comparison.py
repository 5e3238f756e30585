"""The runs of ``skipopu compare``: of every shape, what does not fit, the committed figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim import parallel
from sim.baselines import data
from sim.compare import comparison
from sim.compare.comparison import Point, compare, evaluate
from sim.compare.findings import verdict
from sim.compare.report import report
from sim.estimate import Estimate, Workload
from skipopu import cli
from skipopu.errors import SkipopuError
from skipopu.machine.config import Machine
from skipopu.masks import channels
from skipopu.shapes import SHAPES, shape
from tests.support import small_config

DOCS = Path(__file__).parents[2] / "docs" / "comparison"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "compare needs a checkpoint directory or --shape NAME"),
        (["--shape", "gpt"], "shape 'gpt' is not known; accepted: llama-2-7b"),
        (["--shape", "llama-2-7b", "--context", "128"], "--context is '128'; accepted: P+G"),
        (["--shape", "llama-2-7b", "--context", "128+9000"], "context is 9128; accepted: 1 to 4096"),
        (["--shape", "llama-2-7b", "--target", "tiny"], "machine tiny: the number of key-value heads is 32; accepted: 1 to 8"),
        (
            ["--shape", "llama-2-7b", "--mask", "0.4"],
            "machine u280: masks is False; accepted: true, to leave out input channels",
        ),
        (["--shape", "llama-2-7b", "--mask-trace", "x"], "machine u280: masks is False; accepted: true"),
        (["--shape", "llama-2-7b", "--target", "u280-masks", "--mask-trace", "nowhere"], "nowhere: no such file"),
        (["--shape", "llama-2-7b", "--masks", "x"], "--masks has no effect on --shape"),
        (["pybyte-1m", "--skip", "0", "--masks", "x"], "--masks has no effect: --skip and --skip-trace replace"),
    ],
)
def test_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", *arguments, "--jobs", "1"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_gives_a_report(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at a context that leaves little memory. Every run is compiled, which is where one that does not fit fails; none is timed."""
    machine, config = Machine.load("u280"), shape(name)
    example = evaluate(Point(Machine.load("tiny"), Workload("small", 8, 4), small_config()))

    def compiled(point: Point) -> Estimate:
        of, workload = point.config or shape(point.workload.model), point.workload
        program = compile_checkpoint(
            outline(workload.model, workload.routers, of), point.machine, workload.kv, context=workload.prompt + workload.new
        )
        return replace(example, workload=workload, config=of, machine=point.machine, instructions=len(program.instructions))

    def in_turn(pool: object, work: object, jobs: Sequence[Point]) -> Iterator[tuple[int, Estimate | SkipopuError]]:
        for number, job in enumerate(jobs):
            try:
                yield number, compiled(job)
            except SkipopuError as error:
                yield number, error

    monkeypatch.setattr(parallel, "finished", in_turn)
    most = compile_checkpoint(outline(name), machine).context
    for context in (256, most):
        c = compare(machine, Workload(name, 128, context - 128, "0.25"), workers=1)
        assert c.config == config
        assert c.by_prompt[128] == (c.dense, c.skipping)
        assert c.long is not None
        assert c.long[0].workload.prompt + c.long[0].workload.new == min(most, comparison.LONGEST)
        assert all("two-layer" in line for line in c.left_out), "larger routers may not fit beside the longest context"


def test_what_does_not_fit_is_left_out_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.load("tiny")
    example = evaluate(Point(machine, Workload("small", 8, 4), small_config()))

    def in_turn(pool: object, work: object, jobs: Sequence[Point]) -> Iterator[tuple[int, Estimate | SkipopuError]]:
        for number, job in enumerate(jobs):
            full = job.machine.name == "tiny" and (job.workload.kv == "dense" or job.workload.new > 4)
            yield number, SkipopuError("no room") if full else replace(example, workload=job.workload)

    monkeypatch.setattr(parallel, "finished", in_turn)
    c = compare(machine, Workload("small", 8, 4, "0.25"), small_config(max_positions=64), workers=1)
    assert (c.long, c.dense_kv, c.by_skip["dense"]) == (None, None, {})
    assert "Prompts of 1024 tokens are left out: the machine holds 64." in c.left_out
    assert any("no room" in line for line in c.left_out)
    assert set(c.left_out) <= set(verdict(c))
    assert len(report(c).plots) == 4


def test_masks_are_runs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else stays without them, the dense run and what surrounds it too."""
    machine, config = Machine.load("tiny-masks"), small_config(max_positions=64)
    example = evaluate(Point(Machine.load("tiny"), Workload("small", 8, 4), config))
    asked: list[Point] = []

    def in_turn(pool: object, work: object, jobs: Sequence[Point]) -> Iterator[tuple[int, Estimate]]:
        asked.extend(jobs)
        return ((number, replace(example, workload=job.workload)) for number, job in enumerate(jobs))

    monkeypatch.setattr(parallel, "finished", in_turn)
    work = Workload("small", 8, 4, "0.25", masked=0.4)
    active = {name: np.ones((2, 12, size), bool) for name, size in channels(config).items()}
    c = compare(machine, work, config, workers=1, active=active)
    assert [(p.workload.skip, p.workload.masked, p.active) for p in asked if p.workload.masked is not None] == [
        ("0", 0.4, None),
        ("0.25", 0.4, active),
    ]
    assert c.masked is not None
    assert [part.workload for part in c.masked] == [replace(work, skip="0"), work]
    assert (c.dense.workload.masked, c.skipping.workload.masked, c.masked_share, c.how_masked) == (
        None,
        None,
        0.4,
        "as recorded",
    )
    assert compare(machine, replace(work, masked=None), config, workers=1).masked is None
    with pytest.raises(SkipopuError, match="machine tiny: masks is False"):
        compare(Machine.load("tiny"), work, config, workers=1)


def test_an_unknown_executor() -> None:
    with pytest.raises(Exception, match="executor is 'ray'; accepted: local, dask"):
        parallel.executor("ray")


@pytest.mark.studies
def test_a_checkpoint_s_own_routers(tmp_path: Path) -> None:
    model = Path(__file__).parents[2] / "models" / "pybyte-1m"
    out = tmp_path / "report"
    assert cli.main(["compare", str(model), "--target", "tiny", "--context", "40+24", "-o", str(out)]) == 0
    body = json.loads((out / "comparison.json").read_text())
    assert body["inputs"]["skip"] == "trace"
    skips = {r["skip"] for r in body["records"] if r["name"] == "time_to_first_token_s"}
    assert any(0.05 < skip < 0.5 for skip in skips)


@pytest.mark.studies
def test_committed_report() -> None:
    """The committed figures are what the timing engine counts, and they hold what is said of them."""
    committed = json.loads((DOCS / "comparison.json").read_text())["records"]

    def value(name: str, what: str, model: str = "llama-2-7b") -> float:
        return next(r["value"] for r in committed if r["name"] == name and what in r["source"] and r["model"] == model)

    u280, paper = Machine.load("u280"), Machine.load(comparison.PAPER_TARGET)
    asked = evaluate(Point(u280, Workload("llama-2-7b", 128, 1024, "0.25")))
    assert value("decode_tokens_per_s", "; linear routers") == round(asked.tokens_per_s, 3), "run `skipopu compare`, see README"
    assert asked.share_of_cap > 0.97
    for model, said in data.fpgas().paper.efficiency.items():
        part = evaluate(Point(paper, Workload(model, 128, 1024, "0.25")))
        assert value("decode_tokens_per_s", "the paper's parameters", model) == round(part.tokens_per_s, 3)
        size = comparison.workload_bytes(part.config, 640, data.fpgas().paper.weights, 0.25)
        assert abs(size * part.tokens_per_s / 460.8e9 / said - 1) < 0.05
    assert not [r for r in committed if r["name"] == "share_of_cap" and r["value"] > 1]


@pytest.mark.studies
def test_compare_runs_everything_in_parallel() -> None:
    seen: list[tuple[int, int]] = []
    c = compare(Machine.load("u280"), Workload("llama-3.2-1b", 16, 16, "0.25"), workers=2, say=lambda *at: seen.append(at))
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert c.two_layer is not None
    assert c.two_layer.tokens_per_s < c.skipping.tokens_per_s
    rates = [part.tokens_per_s for part in c.by_skip["reuse"].values()]
    assert rates == sorted(rates)
