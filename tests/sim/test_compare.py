"""Baselines as data, and the report of ``skipopu compare``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim import parallel
from sim.baselines import data
from sim.compare import comparison, render
from sim.compare.comparison import Comparison, Point, compare, evaluate
from sim.compare.decoding import decodings
from sim.compare.findings import records, verdict
from sim.compare.tables import tables
from sim.estimate import Estimate, Workload, weight_bytes
from sim.timing import energy
from skipopu import cli
from skipopu.errors import SkipopuError
from skipopu.machine.config import Machine
from skipopu.quantity import quantity
from skipopu.shapes import SHAPES, shape
from tests.support import small_config

DOCS = Path(__file__).parents[2] / "docs" / "comparison"
MEASURED = {
    "command": "baselines",
    "version": "0.1.0",
    "inputs": {"gpu": "Card X", "copy_gb_s": 900.0},
    "records": [
        {
            "name": name,
            "value": value,
            "unit": unit,
            "kind": "measured",
            "source": "device events, median of 20",
            "system": "Card X",
            "stack": "torch",
            "model": "small",
            "precision": "int4",
            "context": "8+4",
            "skip": 0.25,
            "kv": "reuse",
        }
        for name, value, unit in (
            ("decode_tokens_per_s", 123.4, "token/s"),
            ("bandwidth_efficiency", 0.4, "ratio"),
            ("energy_per_token_j", 1.25, "J"),
        )
    ],
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A report's content on a small machine, every estimate a real one."""
    machine, config = Machine.load("tiny"), small_config(max_positions=64)
    file = tmp_path_factory.mktemp("measured") / "x.json"
    file.write_text(json.dumps(MEASURED))

    def part(skip: str, kv: str = "reuse", prompt: int = 8, new: int = 4):
        return evaluate(Point(machine, Workload("small", prompt, new, skip, kv), config))

    dense, some = part("0"), part("0.25")
    by = {kv: {ratio: part(str(ratio), kv) for ratio in (0.0, 0.5)} for kv in ("reuse", "dense")}
    paper = {
        name: evaluate(Point(Machine.load("u280-paper"), Workload(name, 128, 8, "0.25"))) for name in comparison.PAPER_MODELS
    }
    pairs = {4: (part("0", prompt=4, new=2), part("0.25", prompt=4, new=2)), 8: (dense, some)}
    long = part("0", prompt=4, new=60), part("0.25", prompt=4, new=60)
    return Comparison(
        machine,
        "small",
        config,
        some,
        dense,
        part("0.25", "dense"),
        None,
        by,
        pairs,
        {100.0: (dense, some)},
        long,
        paper,
        data.measured([file]),
    )


class Page(HTMLParser):
    """Collects open tags, and whatever a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v and not v.startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_is_whole_and_the_same_each_time(small: Comparison, tmp_path: Path) -> None:
    first, again = tmp_path / "a", tmp_path / "b"
    render.write(small, first)
    render.write(small, again)
    names = sorted(path.name for path in first.iterdir())
    assert {"comparison.md", "comparison.html", "comparison.json", "decoding.svg", "energy.svg"} <= set(names)
    for name in names:
        assert (first / name).read_bytes() == (again / name).read_bytes()
    page = Page()
    page.feed((first / "comparison.html").read_text())
    assert not page.open
    assert not page.fetched, "one file, nothing to fetch"
    assert page.tags["table"] == len(tables(small))
    assert page.tags["svg"] == 6
    text = (first / "comparison.md").read_text()
    for table in tables(small):
        assert f"## {table.title}" in text
        assert all(len(row) == len(table.header) for row in table.rows)


def test_measured_records_are_shown_and_missing_ones_said(small: Comparison) -> None:
    row = next(row for row in decodings(small) if row.kind == "measured")
    assert (row.system, row.tokens_per_s, row.share, row.joules) == ("Card X", 123.4, None, "1.2 J")
    assert row.other.startswith("40.0%: of a copy's bandwidth")
    assert small.missing() == [("fp16", False, None), ("int4", False, None), ("int4", True, "dense")]
    table = next(table for table in tables(small) if "Measured" in table.title)
    assert sum("missing" in row for row in table.rows) == 3
    assert any("missing" in line for line in verdict(small))
    missing = [r for r in records(small) if r.kind == "measured"]
    assert len(missing) == 3
    assert all(r.value is None for r in missing)


def test_every_figure_says_what_it_is(small: Comparison) -> None:
    for record in records(small):
        assert record.source
        assert record.unit
    assert {r.kind for r in records(small)} == {"simulated", "derived", "estimated", "measured"}


def test_published_rows_agree_with_themselves() -> None:
    """The bytes that the stored bits make are those of the bandwidth that a source states, where it states one."""
    stated = [row for row in data.gpus().rows if row.read_gb_s]
    assert len(stated) > 5
    for row in stated:
        assert row.bits is not None
        size = weight_bytes(shape(row.model), row.bits, row.head_bits)
        assert row.read_gb_s is not None
        assert abs(size * row.tokens_per_s / (row.read_gb_s * 1e9) - 1) < 0.065, row
    for row in data.gpus().rows:
        if row.bits is not None:
            share = (
                weight_bytes(shape(row.model), row.bits, row.head_bits)
                * row.tokens_per_s
                / data.gpus().gpus[row.gpu].peak_gb_s
                / 1e9
            )
            assert 0.1 < share < 0.92, row


def test_the_paper_s_gpu_row_is_what_was_measured() -> None:
    rows = [row for row in data.gpus().rows if "2603.14785" in row.source]
    assert [(row.precision, row.tokens_per_s) for row in rows] == [("fp16", 45.3)]


def test_one_rule_for_every_share(small: Comparison) -> None:
    """The same bytes whoever reads them; a skipped share is not read, keys and values and the embedding do not count."""
    config = shape("llama-2-7b")
    matrices, head = 32 * (4 * 4096**2 + 3 * 4096 * 11008), 4096 * 32000
    assert weight_bytes(config, 16) == 2 * (matrices + head)
    assert weight_bytes(config, 4, 16, skipped=0.25) == 0.75 * matrices / 2 + 2 * head
    own = next(row for row in decodings(small) if row.own and not row.skipped)
    size = weight_bytes(small.config, 4.125)
    assert own.share == pytest.approx(size * small.dense.tokens_per_s / small.machine.peak_bandwidth)


def test_skipping_is_never_compared_with_dense_alone(small: Comparison) -> None:
    config = shape("llama-2-7b")
    slow = replace(small.machine, clock_mhz=1.0)
    dense, skipping = (replace(part, machine=slow) for part in (small.dense, small.skipping))
    c = replace(small, model="llama-2-7b", config=config, dense=dense, skipping=skipping)
    rows = {row[0]: row for row in tables(c)[0].rows}
    fastest = rows["A100-80G, torchao autoquant-int4hqq"]
    assert fastest[2] == f"{209.19 / c.dense.tokens_per_s:.2f}x"
    assert rows["SkipOPU, U280"][2] == f"{143.4 / c.skipping.tokens_per_s:.2f}x"
    said = next(line for line in verdict(c) if "GPUs execute every module" in line)
    assert f"up to {209.19 / c.dense.tokens_per_s:.2f} times" in said


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.00 s"),
        (1.2345e-7, "123 ns"),
        (0.00099999, "1.00 ms"),
        (0.0034, "3.40 ms"),
        (3.19, "3.19 s"),
        (999.99, "1.00 ks"),
        (9.9999, "10.0 s"),
        (4.3112e9, "4.31 Gs"),
    ],
)
def test_quantities(value: float, shown: str) -> None:
    assert quantity(value, "s") == shown


def test_small_models_show_no_zeros(small: Comparison) -> None:
    for table in tables(small):
        if "published" in table.header or "GB/token" in table.header:
            continue  # the paper's rows are of large models
        for row in table.rows:
            assert not [cell for cell in row if re.search(r"(^|[^\d.])0\.0+ ?[kMGmµn]?(B|J|s)\b", cell)], (table.title, row)


def test_energy_says_what_has_no_source(small: Comparison) -> None:
    parts = small.dense.energy()
    for event in (part.event for part in parts):
        assert event.source.startswith(energy.GUESS) or "read in" in event.source
        assert event.energy.low <= event.energy.likely <= event.energy.high
    rest = energy.share_at_rest(parts)
    assert 0 < rest.low < rest.likely < rest.high < 1
    static = next(part.joules for part in parts if part.event.name == energy.REST)
    assert rest.likely == pytest.approx(static.likely / energy.total(parts).likely)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"records": 3}, "records: Input should be a valid list"),
        ({"records": [{**MEASURED["records"][0], "kind": "simulated"}]}, "records.0.kind: Input should be 'measured'"),
        ({"records": [{k: v for k, v in MEASURED["records"][0].items() if k != "model"}]}, "records.0.model: Field required"),
    ],
)
def test_bad_records_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(MEASURED | change))
    with pytest.raises(data.BaselineError, match=message) as caught:
        data.read_measured(path)
    assert str(path) in str(caught.value)
    path.write_text("{")
    with pytest.raises(data.BaselineError, match="not a readable JSON file"):
        data.read_measured(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "compare needs a checkpoint directory or --shape NAME"),
        (["--shape", "gpt"], "shape 'gpt' is not known; accepted: llama-2-7b"),
        (["--shape", "llama-2-7b", "--context", "128"], "--context is '128'; accepted: P+G"),
        (["--shape", "llama-2-7b", "--context", "128+9000"], "context is 9128; accepted: 1 to 4096"),
        (["--shape", "llama-2-7b", "--target", "tiny"], "machine tiny: key-value heads is 32; accepted: 1 to 8"),
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
    assert len(render.figures(c)) == 4


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
