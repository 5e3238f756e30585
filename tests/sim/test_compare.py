"""Baselines as data, and the report of ``skipopu compare``."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sim import parallel
from sim.baselines import data
from sim.compare import comparison, render
from sim.compare.comparison import Comparison, Point, compare, evaluate
from sim.compare.decoding import decodings
from sim.compare.findings import records, verdict
from sim.compare.tables import tables
from sim.estimate import Workload
from skipopu import cli
from skipopu.machine.config import Machine
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
    pairs = {8: (part("0", prompt=8, new=2), part("0.25", prompt=8, new=2))}
    long = part("0", prompt=4, new=60), part("0.25", prompt=4, new=60)
    return Comparison(
        machine, "small", config, some, dense, part("0.25", "dense"), None, by, pairs, long, paper, data.measured([file])
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
    assert (row.system, row.tokens_per_s, row.share, row.joules) == ("Card X", 123.4, 0.4, "1.2")
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
    """A published share of the peak is the bytes of the parameters times the rate over the peak, as its formula says."""
    sizes = {"llama-2-7b": 6.738e9, "llama-3.1-8b": 8.030e9}  # parameters
    for row in data.gpus().rows:
        if row.precision == "fp16" and row.context is None:
            share = 2 * sizes[row.model] * row.tokens_per_s / (data.gpus().gpus[row.gpu].peak_gb_s * 1e9)
            assert abs(share / row.share - 1) < 0.05, row
    ahead = next(row for row in data.gpus().rows if row.stack == "vLLM" and row.precision == "int4")
    assert ahead.tokens_per_s > data.fpgas().paper.tokens_per_s, "the paper's own table has the GPU ahead"


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
        (["--shape", "llama-2-7b", "--target", "tiny"], "machine tiny: residual and inner vector is"),
    ],
)
def test_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", *arguments, "--jobs", "1"]) == 2
    assert message in capsys.readouterr().err


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
