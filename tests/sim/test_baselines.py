"""Published and measured figures as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.baselines import data
from sim.estimate import weight_bytes
from skipopu.quantity import quantity
from skipopu.shapes import shape
from tests.sim.measured import MEASURED


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
