"""Baselines as data, and the report of ``skipopu compare``."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sim.baselines import data
from sim.compare import comparison, render
from sim.compare.comparison import Comparison, Point, evaluate
from sim.compare.decoding import decodings
from sim.compare.findings import verdict
from sim.compare.report import report
from sim.estimate import Workload, weight_bytes, workload_bytes
from sim.timing import energy
from skipopu.machine.config import Machine
from skipopu.shapes import shape
from tests.sim.measured import MEASURED
from tests.support import small_config

pytestmark = pytest.mark.studies
DOCS = Path(__file__).parents[2] / "docs" / "comparison"


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
        name: evaluate(Point(Machine.load("u280-paper"), Workload(name, 32, 4, "0.25"))) for name in comparison.PAPER_MODELS
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
    render.write(small, report(small), first)
    render.write(small, report(small), again)
    names = sorted(path.name for path in first.iterdir())
    assert {"comparison.md", "comparison.html", "comparison.json", "decoding.svg", "energy.svg"} <= set(names)
    for name in names:
        assert (first / name).read_bytes() == (again / name).read_bytes()
    page = Page()
    page.feed((first / "comparison.html").read_text())
    assert not page.open
    assert not page.fetched, "one file, nothing to fetch"
    assert page.tags["table"] == len(report(small).tables)
    assert page.tags["svg"] == 6
    text = (first / "comparison.md").read_text()
    for table in report(small).tables:
        assert f"## {table.title}" in text
        assert all(len(row) == len(table.columns) for row in table.texts)


def test_measured_records_are_shown_and_missing_ones_said(small: Comparison) -> None:
    row = next(row for row in decodings(small) if row.kind == "measured")
    assert (row.system, row.tokens_per_s, row.share, row.joules) == ("Card X", 123.4, None, "1.2 J")
    assert row.other.startswith("40.0%: of a copy's bandwidth")
    assert small.missing() == [("fp16", False, None), ("int4", False, None), ("int4", True, "dense")]
    table = next(table for table in report(small).tables if "Measured" in table.title)
    assert sum("missing" in row for row in table.texts) == 3
    assert any("missing" in line for line in verdict(small))
    missing = [r for r in report(small).records if r.kind == "measured"]
    assert len(missing) == 3
    assert all(r.value is None for r in missing)


def test_a_record_with_masks_says_so_and_is_not_the_one_without(small: Comparison) -> None:
    both = [figure.model_copy(update={"masked": 0.4, "value": 2 * figure.value}) for figure in small.measured[0].records]
    file = small.measured[0].model_copy(update={"records": both})
    c = dataclasses.replace(small, measured=[file])
    assert c.missing() == list(comparison.WANTED)
    row = next(row for row in decodings(c) if row.kind == "measured")
    assert (row.how, row.joules) == ("torch, reuse KV, 40% of channels masked", "2.5 J")
    table = next(table for table in report(c).tables if "Measured" in table.title)
    assert any("25%, 40% of channels" in text for text in table.texts)


def test_every_figure_says_what_it_is(small: Comparison) -> None:
    for record in report(small).records:
        assert record.source
        assert record.unit
    assert {r.kind for r in report(small).records} == {"simulated", "derived", "estimated", "measured"}


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
    asked = {"dense": dense, "skipping": skipping, "by_clock": {1.0: (dense, skipping)}}
    c = replace(small, model="llama-2-7b", config=config, **asked)
    rows = {row[0]: row for row in report(c).tables[0].texts}
    fastest = rows["A100-80G, torchao autoquant-int4hqq"]
    assert fastest[2] == f"{209.19 / c.dense.tokens_per_s:.2f}x"
    assert rows["SkipOPU, U280"][2] == f"{143.4 / c.skipping.tokens_per_s:.2f}x"
    said = next(line for line in verdict(c) if "GPUs execute every module" in line)
    assert f"up to {209.19 / c.dense.tokens_per_s:.2f} times" in said


def test_masked_runs_stand_beside_those_without(small: Comparison, tmp_path: Path) -> None:
    """No comparison with others has them; who else masks channels is given the same bytes."""
    machine = Machine.load("tiny-masks")
    dense, some = (evaluate(Point(machine, Workload("small", 8, 4, skip, masked=0.5), small.config)) for skip in ("0", "0.25"))
    c = replace(small, masked=(dense, some))
    before, after = report(small), report(c)
    rows = {row[1]: row for row in after.tables[0].texts if "50% masked" in row[0]}
    for part, plain, skipped in ((dense, small.dense, 0.0), (some, small.skipping, c.skipped)):
        row = rows[f"{part.tokens_per_s:.1f}"]
        assert row[2:4] == [f"{part.tokens_per_s / plain.tokens_per_s:.2f}x", f"{skipped:.0%}"]
        size = weight_bytes(c.config, 2.125, 4.125, skipped)
        assert row[5] == f"{size * part.tokens_per_s / c.machine.peak_bandwidth:.1%}"
    others = [[row for row in found.tables[0].texts if "masked" not in row[0]] for found in (before, after)]
    assert others[0] == others[1]
    roofs = next(table for table in after.tables if "rooflines" in table.title)
    column = roofs.columns.index("the same, 50% of channels masked")
    read = workload_bytes(c.config, c.workload.mean_context, "int4", c.ratio, 0.5)
    for row in roofs.texts[1:]:
        assert row[column] == f"{data.gpus().gpus[row[0]].peak_gb_s * 1e9 / read:.0f}"
    said = [line for line in after.findings if line not in before.findings]
    assert len(said) == 1
    assert (
        "No comparison with GPUs below has them: masks are drawn independently, and a GPU that masks channels gains as well;"
        in said[0]
    )
    masked = [record for record in after.records if record.masked is not None]
    assert {record.masked for record in masked} == {0.5}
    assert [r.value for r in masked if r.name == "bytes_per_token"] == [dense.bytes_per_token, some.bytes_per_token]
    assert [r for r in after.records if r.masked is None and r.kind != "published"] == [
        r for r in before.records if r.kind != "published"
    ]
    render.write(c, after, tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text())["inputs"]["masked"] == 0.5


def test_small_models_show_no_zeros(small: Comparison) -> None:
    for table in report(small).tables:
        if "published" in table.columns or "GB/token" in table.columns:
            continue  # the paper's rows are of large models
        for row in table.texts:
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
