"""AWQ files are dequantised as their layout says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.frontend.tensors import Codes
from skipopu.errors import CheckpointError
from tests.compiler.frontend.quantised import drawn, opened, parts

ROWS, N, BASE = 24, 256, "model.layers.0.mlp.up_proj."
CONFIG: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}


@pytest.mark.parametrize("group", [32, 64, 128, -1])
def test_values_and_integers(tmp_path: Path, group: int) -> None:
    given = drawn(ROWS, N, 4, group, False, least=0)
    found = opened(tmp_path, given.awq(BASE), CONFIG | {"group_size": group})
    for rows in parts(ROWS):
        assert np.array_equal(found.read(f"{BASE}weight", rows), given.values()[rows])
    codes = found.codes(f"{BASE}weight", slice(3, 20))
    assert isinstance(codes, Codes)
    assert np.array_equal(codes.integers, (given.fields - given.zeros[:, given.order])[3:20])


def test_older_names_of_keys(tmp_path: Path) -> None:
    given = drawn(ROWS, N, 4, 64, False)
    older = {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "version": "GEMM", "zero_point": True}
    assert np.array_equal(opened(tmp_path, given.awq(BASE), older)[f"{BASE}weight"], given.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "gemv"}, "version is 'gemv'; accepted: 'gemm'"),
        ({"version": "gemv_fast"}, "version is 'gemv_fast'; accepted: 'gemm'"),
        ({"bits": 8}, "bits is 8; accepted: 4"),
        ({"zero_point": False}, "zero_point is False; accepted: True"),
        ({"group_size": 96}, "qweight has 256 columns; accepted: a multiple of the group of 96"),
        ({"group_size": 32}, r"scales has shape \(4, 24\); .* ask for \(8, 24\)"),
    ],
)
def test_configurations_are_refused_by_their_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, drawn(ROWS, N, 4, 64, False).awq(BASE), CONFIG | change)


@pytest.mark.parametrize("part", ["qzeros", "scales"])
def test_missing_tensors_are_named(tmp_path: Path, part: str) -> None:
    tensors = drawn(ROWS, N, 4, 64, False).awq(BASE)
    del tensors[BASE + part]
    with pytest.raises(CheckpointError, match=rf"up_proj\.{part} is missing; .*qweight needs it"):
        opened(tmp_path, tensors, CONFIG)
