"""Integers of quantised files reach the program bit for bit, where nothing forbids it; where something does, it is told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compiler.frontend.canonical import PARTS
from compiler.frontend.checkpoint import Checkpoint, load
from compiler.frontend.tensors import Codes
from compiler.passes.fold import attention_scale
from compiler.pipeline import compile_checkpoint
from skipopu.machine.config import Machine
from skipopu.numerics.formats import INT4
from skipopu.program.program import Program
from skipopu.row_order import permutation
from tests.compiler.frontend.quantised import Quantised, drawn
from tests.support import random_checkpoint, small_config

GROUP = 32
CONFIG = small_config(hidden_size=128, intermediate_size=192, weight_group=GROUP)
MATRICES = {f"model.layers.{layer}.{part}.weight" for layer in range(2) for part in PARTS.values()}
TINY = Machine.load("tiny")


def write(
    directory: Path, matrices: dict[str, Quantised], symmetric: bool, gain: float = 1.0, uneven: str = "-", **weights: Any
) -> Checkpoint:
    """A checkpoint of these matrices in compressed-tensors' pack-quantized form, all gains ``gain``, ``uneven`` ones but for one element."""
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in random_checkpoint(CONFIG).tensors.items():
        if name in matrices:
            tensors |= matrices[name].compressed(name.removesuffix("weight"), symmetric)
        else:
            tensors[name] = torch.from_numpy(tensor) if tensor.ndim > 1 else torch.full(tensor.shape, gain)
            if uneven in name:
                tensors[name][5] = 1.5
    given = {"num_bits": 4, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": GROUP} | weights
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    config["config_groups"] = {"group_0": {"targets": ["Linear"], "weights": given}}  # type: ignore[assignment]
    (directory / "config.json").write_text(json.dumps(CONFIG.to_hf() | {"quantization_config": config}))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    return load(directory)


def matrices(bits: int, group: int, symmetric: bool) -> dict[str, Quantised]:
    shapes = {name: tensor.shape for name, tensor in random_checkpoint(CONFIG).tensors.items()}
    return {name: drawn(*shapes[name], bits, group, symmetric, seed) for seed, name in enumerate(sorted(MATRICES))}


def placed(program: Program, product: str, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers (rows, n) and scales (rows, groups) of a product in the program's memory, rows in the checkpoint's order."""
    told, stream = program.matrices[product], program.stream(product)
    address = told["address"] + layer * told["layer_stride"]
    codes, scales = stream.unpack([port[address : address + stream.size] for port in program.memory])
    rows = permutation(told["order"], program.model, len(codes))
    integers, ordered = np.empty((len(codes), told["n"]), np.int8), np.empty_like(scales)
    integers[rows], ordered[rows] = codes.reshape(len(codes), -1)[:, : told["n"]], scales
    return integers, ordered


PRODUCTS = {"kv": ("k", "v"), "q": ("q",), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}


def differing(program: Program, given: dict[str, Quantised], columns: int = 1) -> int:
    """Integers and scales that are not the files' own, the scales of queries times attention's, rounded once."""
    count = 0
    for layer in range(2):
        for product, parts in PRODUCTS.items():
            found, scales = placed(program, product, layer)
            own = [given[f"model.layers.{layer}.{PARTS[part]}.weight"] for part in parts]
            integers = np.concatenate([matrix.fields - matrix.zeros[:, matrix.order] for matrix in own])
            expected = np.concatenate([np.repeat(matrix.scales, columns, 1) for matrix in own])
            if product == "q":
                expected = (expected.astype(np.float32) * np.float32(attention_scale(CONFIG))).astype(np.float16)
            count += int((found != integers).sum()) + int((scales != expected).sum())
    return count


@pytest.mark.parametrize(
    ("bits", "symmetric", "form", "group"),
    [
        (4, True, "int4", 32),
        (4, True, "int8", 32),
        (4, True, "int4z", 32),
        (8, True, "int8", 32),
        (4, False, "int8", 32),
        (4, False, "int4z", 32),
        (4, True, "int4", 64),
        (4, False, "int4z", 64),
    ],
)
def test_integers_are_the_files(tmp_path: Path, bits: int, symmetric: bool, form: str, group: int) -> None:
    """Symmetric ones; with zero points what INT8 and INT4Z hold of INT4; scales of longer groups stand several times."""
    given = matrices(bits, group, symmetric)
    checkpoint = write(tmp_path, given, symmetric, num_bits=bits, group_size=group)
    program = compile_checkpoint(checkpoint, TINY, group=GROUP, weights=form)
    assert differing(program, given, group // GROUP) == 0
    assert not program.source["warnings"]


@pytest.mark.parametrize("method", ["awq", "gptq", "gptq_v2"])
def test_files_with_zero_points_are_placed_as_they_are(tmp_path: Path, method: str) -> None:
    """The default on a machine that knows them."""
    shapes = {name: tensor.shape for name, tensor in random_checkpoint(CONFIG).tensors.items()}
    given = {
        name: drawn(*shapes[name], 4, GROUP, False, seed, least=int(method == "gptq"))
        for seed, name in enumerate(sorted(MATRICES))
    }
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in random_checkpoint(CONFIG).tensors.items():
        base = name.removesuffix("weight")
        if name in given:
            tensors |= given[name].awq(base) if method == "awq" else given[name].gptq(base, v2=method == "gptq_v2")
        else:
            tensors[name] = torch.from_numpy(tensor) if tensor.ndim > 1 else torch.ones(tensor.shape)
    config: dict[str, Any] = {"quant_method": method.removesuffix("_v2"), "bits": 4, "group_size": GROUP, "sym": False}
    config |= {"zero_point": True} if method == "awq" else {"checkpoint_format": method}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_hf() | {"quantization_config": config}))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    program = compile_checkpoint(load(tmp_path), TINY)
    assert {product["format"] for name, product in program.matrices.items() if name != "router"} == {"int4z"}
    assert differing(program, given) == 0
    assert not program.source["warnings"]
    without = dataclasses.replace(TINY, formats=("int4", "int8"))
    program = compile_checkpoint(load(tmp_path), without)
    assert {product["format"] for product in program.matrices.values()} == {"int4"}
    assert "beyond int4" in program.source["warnings"][0]


def test_integers_beyond_a_groups_sixteen_are_rounded_again(tmp_path: Path) -> None:
    """Files of 8 bits whose integers lie within INT4Z's, 16 of them in a group of most rows."""
    given = matrices(8, GROUP, True)
    name = "model.layers.0.mlp.up_proj.weight"
    for matrix in given.values():
        matrix.fields[:] = 128 + matrix.fields % 16 - 10
    given[name].fields[3, :2] = 128 - 16, 128 + 15
    checkpoint = write(tmp_path, given, True, num_bits=8)
    program = compile_checkpoint(checkpoint, TINY, weights="int4z")
    assert program.source["warnings"] == [
        f"1 of 14 quantised matrices are rounded again: 1 as their integers, less zero points, are beyond int4z ({name})"
    ]
    integers, _ = placed(program, "gate_up", 0)
    own = given[name].fields - 128
    assert (integers[len(own) :] != own).any(1).nonzero()[0].tolist() == [3]


def test_every_product_has_its_files_own_format(tmp_path: Path) -> None:
    write(tmp_path, matrices(4, GROUP, False), False)
    config = json.loads((tmp_path / "config.json").read_text())
    groups = config["quantization_config"]["config_groups"]
    weights = groups["group_0"]["weights"] | {"symmetric": True}
    groups["group_1"] = {"targets": ["re:.*down_proj", "re:.*k_proj"], "weights": weights}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = compile_checkpoint(load(tmp_path), TINY).weights
    assert isinstance(found, dict)
    assert found.pop("down") == "int4"
    assert {*found.values()} == {"int4z"}, "k and v are one product, and a head that no file holds has what others have"


def test_equal_gains_scale_the_scales(tmp_path: Path) -> None:
    given = matrices(4, GROUP, True)
    program = compile_checkpoint(write(tmp_path, given, True, gain=2.0), TINY)
    twice = {
        name: dataclasses.replace(matrix, scales=matrix.scales * np.float16(2))
        if ("o_proj" not in name and "down" not in name)
        else matrix
        for name, matrix in given.items()
    }
    assert differing(program, twice) == 0


def test_what_is_rounded_again_is_told(tmp_path: Path) -> None:
    given = matrices(4, GROUP, False)
    name = "model.layers.1.mlp.down_proj.weight"
    given[name] = given[name].permuted(np.random.default_rng(0))
    checkpoint = write(tmp_path, given, False, actorder="group")
    told = compile_checkpoint(checkpoint, TINY, weights="int4").source["warnings"]
    assert told == [
        "14 of 14 quantised matrices are rounded again: 13 as their integers, less zero points, are beyond int4"
        " (model.layers.0.self_attn.k_proj.weight, ...); 1 as columns of one scale lie apart (act-order) (" + name + ")"
    ]
    told = compile_checkpoint(checkpoint, TINY, group=64, weights="int8").source["warnings"]
    assert "13 as their scales are of 32 columns, the program's of 64" in told[0]


def test_uneven_gains_are_told(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, matrices(4, GROUP, True), True, uneven="layernorm")
    assert compile_checkpoint(checkpoint, TINY).source["warnings"] == [
        "10 of 14 quantised matrices are rounded again: 10 as norm gains multiply their columns"
        " (model.layers.0.self_attn.k_proj.weight, ...)"
    ]


def test_negative_scales_turn_integers(tmp_path: Path) -> None:
    """The machine's scales have no sign: -8 has no opposite in INT4."""
    given = {
        name: dataclasses.replace(m, scales=-m.scales, fields=np.maximum(m.fields, 1))
        for name, m in matrices(4, GROUP, True).items()
    }
    program = compile_checkpoint(write(tmp_path, given, True), TINY)
    turned = {name: dataclasses.replace(m, scales=-m.scales, fields=16 - m.fields) for name, m in given.items()}
    assert differing(program, turned) == 0


def test_groups_within_longer_ones() -> None:
    codes = Codes(np.zeros((2, 80), np.int16), np.arange(10, dtype=np.float32).reshape(2, 5), 16, INT4)
    found = codes.scales_of(8)
    assert found is not None
    assert np.array_equal(found, np.repeat(codes.scales, 2, 1))
    assert codes.scales_of(32) is None
    whole = Codes(np.zeros((2, 80), np.int16), np.ones((2, 1), np.float32), 80, INT4).scales_of(32)
    assert whole is not None
    assert whole.shape == (2, 3)
