"""Sweeps: every combination once, taken up where they stopped, fronts that nothing beats."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import parallel, sweep
from sim.estimate import Workload
from skipopu import cli
from skipopu.shipped import MODELS

TEXT = """
base: u280
machine: {tokens: [2, 4], weight_fifo: [128, 512]}
workload: {shape: [llama-3.2-1b], context: ["4+4"], skip: [0, "attn=0.5,ffn=0"]}
"""


@pytest.fixture
def description(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(TEXT)
    return path


def test_the_example_is_a_sweep() -> None:
    assert len(sweep.read(Path(__file__).parents[2] / "docs" / "examples" / "sweep.yaml")) == 48


@pytest.mark.slow
def test_results_are_kept_and_taken_up(description: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = sweep.read(description)
    assert len(jobs) == len({job.key for job in jobs}) == 8
    out = tmp_path / "out"
    with ThreadPoolExecutor(1) as pool:
        rows = sweep.run(jobs[:5], out, pool)
        # An interrupted run leaves half a line.
        with (out / sweep.RESULTS).open("a") as file:
            file.write('{"key": "')
        ran = []
        work = sweep.work
        monkeypatch.setattr(sweep, "work", lambda job: ran.append(job) or work(job))
        again = sweep.run(jobs, out, pool)
    assert ran == jobs[5:]
    assert again[:5] == rows
    assert [row["tokens"] for row in again] == [2] * 4 + [4] * 4
    assert all(row["decode_tokens_per_s"] > 0 for row in again)


@pytest.mark.slow
def test_a_machine_that_does_not_fit_is_said_and_the_rest_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "base: u280\nmachine: {activation: [8192, 20480]}\nworkload: {shape: [llama-3.2-1b], context: [4+4], skip: [0]}\n"
    )
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    assert cli.main(["sweep", str(path), "-o", str(out), "--jobs", "1", "--parquet", "--json", str(figures)]) == 0
    assert "accepted: up to activation, 8192" in capsys.readouterr().err
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["refused", "ok"]
    assert (out / "pareto.png").stat().st_size > 1000
    from pyarrow.parquet import read_table

    assert read_table(out / "results.parquet").num_rows == 2
    monkeypatch.setattr(sweep, "estimate", lambda machine, workload: 1 / 0)
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", lambda workers, initializer: ThreadPoolExecutor(workers))
    assert cli.main(["sweep", str(path), "-o", str(out)]) == 0, "refused ones are not run again"
    (out / sweep.RESULTS).unlink()
    for _ in range(2):
        assert cli.main(["sweep", str(path), "-o", str(out)]) == 2, "nothing is left to show"
        with (out / "results.csv").open() as file:
            assert {row["status"] for row in csv.DictReader(file)} == {"failed"}
    names = {r["name"]: r["kind"] for r in json.loads(figures.read_text())["records"]}
    assert (names["decode_tokens_per_s"], names["power_w"]) == ("simulated", "estimated")


def test_masks_are_an_axis(tmp_path: Path) -> None:
    """Of the workload; machines without masks are refused, rows without them say nothing of them."""
    path, out, figures = tmp_path / "sweep.yaml", tmp_path / "out", tmp_path / "figures.json"
    path.write_text(
        "base: tiny-masks\nmachine: {masks: [true, false]}\n"
        f"workload: {{shape: [{MODELS / 'pybyte-1m'}], context: [4+4], skip: [0], mask: [null, 0, 0.5]}}\n"
    )
    assert cli.main(["sweep", str(path), "-o", str(out), "--jobs", "1", "--json", str(figures)]) == 0
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["masks"], row["mask"], row["status"]) for row in rows] == [
        ("True", "", "ok"),
        ("True", "0.0", "ok"),
        ("True", "0.5", "ok"),
        ("False", "", "ok"),
        ("False", "0.0", "refused"),
        ("False", "0.5", "refused"),
    ]
    assert "masks is False; accepted: true, to leave out input channels" in rows[-1]["reason"]
    assert float(rows[2]["decode_tokens_per_s"]) > float(rows[1]["decode_tokens_per_s"])
    found = [r.get("masked") for r in json.loads(figures.read_text())["records"] if r["name"] == "decode_tokens_per_s"]
    assert found == [None, 0, 0.5, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: u280", "workload: Field required"),
        (TEXT + "more: 1", "more: Extra inputs are not permitted"),
        (TEXT.replace("u280", "u2"), "target 'u2' is not known"),
        (TEXT.replace("tokens", "token"), "unknown key 'token'"),
        (TEXT.replace("[2, 4]", "[2, 999]"), "tokens is 999; accepted: 1..64"),
        (TEXT.replace("llama-3.2-1b", "gpt"), "shape 'gpt' is not known"),
        (TEXT.replace("4+4", "4+1"), "workload.context is '4\\+1'"),
        (TEXT.replace("skip: [0,", "skip: [7,"), "--skip is '7.0'"),
        (TEXT.replace("workload: {", "workload: {kv: [none], "), "workload.kv is 'none'; accepted: dense, reuse"),
        (
            TEXT.replace("workload: {", "workload: {mask: [-0.1], "),
            "workload.mask.0: Input should be greater than or equal to 0",
        ),
        (TEXT.replace("workload: {", "workload: {mask: [.nan], "), "workload.mask.0: Input should be less than or equal to 1"),
        (TEXT.replace("4+4", "44"), "workload.context is '44'; accepted: P\\+G"),
        ("[", "not valid YAML"),
    ],
)
def test_descriptions_are_looked_at_first(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    assert cli.main(["sweep", str(path), "-o", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20))
def test_fronts(points: list[tuple[int, int]]) -> None:
    front = sweep.pareto([(float(a), float(b)) for a, b in points])

    def beaten(k: int) -> bool:
        a, b = points[k]
        return any((x <= a and y >= b) and (x, y) != (a, b) for x, y in points)

    assert {points[k] for k in front} == {points[k] for k in range(len(points)) if not beaten(k)}
    assert [points[k][0] for k in front] == sorted({points[k][0] for k in front})


def test_results_are_kept_by_sources(description: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = sweep.read(description)[0]
    before = job.key
    monkeypatch.setattr(sweep, "sources", lambda: "others")
    assert job.key != before


def test_the_sources_are_all_that_an_estimate_imports() -> None:
    code = "import sim.estimate, sys; print(*(m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)), sep='\\n')"
    root = Path(sweep.__file__).parents[1]
    seen = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    rooms = [root / room for room in ("skipopu", "compiler", "sim")]
    used = {Path(file) for file in seen if any(room in Path(file).parents for room in rooms)}
    assert root / "sim" / "timing" / "costs.py" in used
    assert used <= set(sweep.files())


def test_results_are_kept_by_the_content_of_files(tmp_path: Path) -> None:
    """A shape or ratios by layer that are files may change under their names."""
    shape, skip = tmp_path / "config.json", tmp_path / "skip.yaml"
    config = json.loads((MODELS / "pybyte-300k" / "config.json").read_text())
    layers = config["num_hidden_layers"]
    keys = set()
    for vocabulary, ratio in ((256, 0.1), (512, 0.1), (512, 0.2)):
        shape.write_text(json.dumps(config | {"vocab_size": vocabulary}))
        skip.write_text(f"attn: {ratio}\nffn: {[ratio] * layers}\n")
        keys.add(sweep.Job("u280", (), Workload(str(shape), 4, 4, str(skip))).key)
    assert len(keys) == 3


def test_an_error_cancels_what_is_queued() -> None:
    def interrupted() -> None:
        with parallel.executor("local", 1) as pool:
            for _ in range(20):
                pool.submit(time.sleep, 60)
            raise ZeroDivisionError

    begin = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert time.monotonic() - begin < 5


@pytest.mark.studies
def test_dask(description: Path, tmp_path: Path) -> None:
    jobs = sweep.read(description)[:2]
    with parallel.executor("dask", 1) as pool:
        rows = sweep.run(jobs, tmp_path / "dask", pool)
    with ThreadPoolExecutor(1) as pool:
        assert rows == sweep.run(jobs, tmp_path / "local", pool)
