"""What formats have in common, on anything: packed fields, blocks of scales, configurations and damaged tensors."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from compiler.frontend.quantised.packed import fields, of_blocks
from compiler.frontend.stored import Stored
from skipopu.errors import CheckpointError
from tests.compiler.frontend.quantised import Quantised, drawn, opened, words
from tests.support import ANYTHING

BASE = "model.layers.0.mlp.up_proj."


@given(st.integers(1, 9), st.integers(1, 70), st.sampled_from([4, 8]), st.integers(0, 1 << 20))
def test_fields_are_what_was_packed(rows: int, n: int, bits: int, seed: int) -> None:
    table = np.random.default_rng(seed).integers(0, 1 << bits, (rows, n))
    found = fields(words(table, bits).numpy(), bits)
    assert np.array_equal(found[:, :n], table)
    assert not found[:, n:].any()


@given(st.data())
@settings(max_examples=25)
def test_rows_of_any_matrix(data: st.DataObject) -> None:
    """Whatever its size, its groups and the rows that are asked for, in every way in which it may be stored."""
    bits, group = data.draw(st.sampled_from([4, 8])), data.draw(st.sampled_from([8, 16, 24, -1]))
    rows, n = 8 * data.draw(st.integers(1, 3)), 48 * data.draw(st.integers(1, 2))
    symmetric = data.draw(st.booleans())
    matrix: Quantised = drawn(rows, n, bits, group, symmetric, data.draw(st.integers(0, 1 << 20)))
    if data.draw(st.booleans()):
        matrix = matrix.permuted(np.random.default_rng(0))
    weights = {"num_bits": bits, "symmetric": symmetric, "group_size": group, "actorder": "group"}
    groups = {"a": {"targets": ["Linear"], "weights": weights, "format": "pack-quantized"}}
    ways: list[tuple[dict[str, Any], dict[str, torch.Tensor]]] = [
        ({"quant_method": "gptq", "bits": bits, "group_size": group}, matrix.gptq(BASE)),
        ({"quant_method": "compressed-tensors", "config_groups": groups}, matrix.compressed(BASE, symmetric)),
    ]
    first = data.draw(st.integers(0, rows))
    part = slice(first, data.draw(st.integers(first, rows + 3)))
    for config, tensors in ways:
        with tempfile.TemporaryDirectory() as directory:
            found = opened(Path(directory), tensors, config)
            assert np.array_equal(found.read(f"{BASE}weight", part), matrix.values()[part])


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9), st.integers(1, 9), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_scales_of_blocks(tmp_path: Path, rows: int, n: int, high: int, wide: int, data: st.DataObject) -> None:
    sizes = -(-rows // high), -(-n // wide)
    scale = torch.arange(float(sizes[0] * sizes[1])).reshape(sizes)
    squeezed = [size for size in sizes if size != 1]
    shape = data.draw(st.sampled_from([sizes, squeezed]))
    save_file({"w": torch.zeros(rows, n), "s": scale.reshape(shape)}, tmp_path / "a.safetensors")
    first = data.draw(st.integers(0, rows))
    end = data.draw(st.integers(first, rows))
    found = of_blocks(Stored([tmp_path / "a.safetensors"]), "s", "w", (rows, n), (high, wide))(first, end)
    assert np.array_equal(found, np.repeat(scale.numpy(), high, 0)[:rows][first:end])


CONFIGS: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]] = {
    "gptq": (
        {"bits": 4, "group_size": 16, "checkpoint_format": "gptq", "dynamic": None, "meta": {}},
        drawn(8, 32, 4, 16, False).gptq(BASE),
    ),
    "awq": (
        {"bits": 4, "group_size": 16, "version": "gemm", "zero_point": True},
        drawn(8, 32, 4, 16, False).awq(BASE),
    ),
    "compressed-tensors": (
        {"format": "pack-quantized", "config_groups": {}, "sparsity_config": None, "transform_config": None},
        drawn(8, 32, 4, 16, True).compressed(BASE, True),
    ),
    "fp8": (
        {"weight_block_size": [8, 8], "fmt": "e4m3"},
        {f"{BASE}weight": torch.ones(8, 32).to(torch.float8_e4m3fn), f"{BASE}weight_scale_inv": torch.ones(1, 4)},
    ),
}
SCHEME: dict[str, Any] = {
    "num_bits": 4,
    "type": "int",
    "symmetric": True,
    "strategy": "group",
    "group_size": 16,
    "dynamic": None,
}


@pytest.mark.parametrize("method", CONFIGS)
@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_any_configuration_is_read_or_refused(tmp_path: Path, method: str, data: st.DataObject) -> None:
    config, tensors = CONFIGS[method]
    config = {"quant_method": method} | config
    if method == "compressed-tensors":
        scheme = {"targets": ["Linear"], "weights": dict(SCHEME), "format": None}
        config["config_groups"] = {"a": scheme}
        table = data.draw(st.sampled_from([config, scheme, scheme["weights"]]))
    else:
        table = config
    table[data.draw(st.sampled_from([key for key in table if key != "quant_method"]))] = data.draw(ANYTHING)
    with contextlib.suppress(CheckpointError):
        assert opened(tmp_path, tensors, config)[f"{BASE}weight"].shape == (8, 32)


@pytest.mark.parametrize("method", CONFIGS)
@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_any_tensor_of_another_shape_is_refused(tmp_path: Path, method: str, data: st.DataObject) -> None:
    config, tensors = CONFIGS[method]
    if method == "compressed-tensors":
        config = config | {"config_groups": {"a": {"targets": ["Linear"], "weights": SCHEME}}}
    name = data.draw(st.sampled_from(sorted(tensors)))
    shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
    shape = data.draw(shapes.filter(lambda shape: shape != tuple(tensors[name].shape)))
    kind = data.draw(st.sampled_from([torch.int32, torch.float16, torch.int64, torch.float8_e4m3fn, torch.uint8]))
    change = torch.zeros(shape).to(kind)
    with pytest.raises(CheckpointError):
        opened(tmp_path, tensors | {name: change}, {"quant_method": method} | config)
