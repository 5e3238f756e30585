"""FP8 files are dequantised block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compiler.frontend.quantised.packed import FLOATING
from compiler.frontend.tensors import NoCodes
from skipopu.errors import CheckpointError
from tests.compiler.frontend.quantised import opened, parts

ROWS, N, NAME = 30, 80, "model.layers.0.mlp.up_proj.weight"


def stored(scale: tuple[int, ...], name: str = "_scale_inv") -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(ROWS, N, generator=random).mul(30).to(torch.float8_e4m3fn)
    return {NAME: weight, NAME + name: torch.rand(scale, generator=random) + 0.1}


@pytest.mark.parametrize(
    ("block", "shape", "name"),
    [
        ([8, 32], (4, 3), "_scale_inv"),
        ([128, 128], (1, 1), "_scale_inv"),
        ([10, 16], (3, 5), "_scale_inv"),
        (None, (), "_scale_inv"),
        (None, (1,), "_scale"),
        (None, (ROWS, 1), "_scale"),
        (None, (ROWS,), "_scale_inv"),
    ],
)
def test_values(tmp_path: Path, block: list[int] | None, shape: tuple[int, ...], name: str) -> None:
    tensors = stored(shape, name)
    found = opened(tmp_path, tensors, {"quant_method": "fp8", "weight_block_size": block})
    rows, columns = block or (1 if ROWS in shape else ROWS, N)
    expected = tensors[NAME].float().numpy()
    scale = tensors[NAME + name].numpy().reshape(-(-ROWS // rows), -(-N // columns))
    for row in range(ROWS):
        for column in range(N):
            expected[row, column] *= scale[row // rows, column // columns]
    for part in parts(ROWS):
        assert np.array_equal(found.read(NAME, part), expected[part])
    assert found.codes(NAME, slice(0, 4)) == NoCodes(FLOATING)


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        ({"weight_block_size": [8, 32]}, (4, 2), r"weight_scale_inv has shape \(4, 2\); .* ask for \(4, 3\)"),
        ({"weight_block_size": [8, 0]}, (4, 3), r"weight_block_size is \[8, 0\]; accepted: two block sizes or null"),
        ({"weight_block_size": [8]}, (4, 3), r"weight_block_size is \[8\]; accepted: two block sizes or null"),
        ({"fmt": "e5m2"}, (), "fmt is 'e5m2'; accepted: 'e4m3'"),
        ({}, (7,), r"weight_scale_inv has shape \(7,\); .* ask for \(1, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, config: dict[str, Any], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, stored(shape), {"quant_method": "fp8"} | config)


def test_a_missing_scale_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"tensor {NAME}_scale_inv is missing; {NAME} needs it"):
        opened(tmp_path, {NAME: stored(())[NAME]}, {"quant_method": "fp8"})
