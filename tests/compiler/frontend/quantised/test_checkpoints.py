"""Whole quantised checkpoints load as the plain ones whose numbers they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from compiler.frontend.checkpoint import load
from compiler.frontend.tensors import Codes, Tensors
from compiler.pipeline import compile_checkpoint
from sim.studies.families.models import save
from skipopu.errors import CheckpointError
from skipopu.machine.config import Machine
from tests.compiler.frontend.quantised import Quantised, drawn
from tests.support import said

pytest.importorskip("transformers")

PACKED = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}
ACT_ORDER_8 = "gptq of 8 bits"
WAYS: dict[str, tuple[dict[str, Any], Callable[[Quantised, str], dict[str, torch.Tensor]]]] = {
    "gptq": ({"bits": 4, "group_size": 32, "desc_act": True}, lambda matrix, base: matrix.gptq(base)),
    ACT_ORDER_8: (
        {"quant_method": "gptq", "bits": 8, "group_size": 32, "desc_act": True},
        lambda matrix, base: matrix.permuted(np.random.default_rng(1)).gptq(base),
    ),
    "awq": ({"bits": 4, "group_size": 32, "version": "gemm"}, lambda matrix, base: matrix.awq(base)),
    "compressed-tensors": (
        {"format": "pack-quantized", "config_groups": {"a": {"targets": ["Linear"], "weights": PACKED}}, "ignore": ["lm_head"]},
        lambda matrix, base: matrix.compressed(base, False),
    ),
}


def write(directory: Path, tensors: dict[str, torch.Tensor], changes: dict[str, Any]) -> Path:
    """The checkpoint of ``directory`` again, beside it, with other tensors and changes to its configuration."""
    other = directory / f"other{len(list(directory.iterdir()))}"
    other.mkdir()
    config = json.loads((directory / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | changes))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, other / "model.safetensors")
    return other


def quantised(directory: Path, method: str) -> tuple[Path, Path]:
    """The checkpoint with other matrices in its first layer, plain and by ``method``."""
    plain = load_file(directory / "model.safetensors")
    packed = dict(plain)
    config, way = WAYS[method]
    for seed, (name, tensor) in enumerate(plain.items()):
        if ".layers.0." in name and tensor.dim() == 2:
            rows, n = tensor.shape
            matrix = drawn(rows, n, config.get("bits", 4), 32, False, seed)
            del packed[name]
            packed |= way(matrix, name.removesuffix("weight"))
            plain[name] = torch.from_numpy(matrix.values())
    return write(directory, plain, {}), write(directory, packed, {"quantization_config": {"quant_method": method} | config})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method"),
    [("phi3", method) for method in WAYS if method != ACT_ORDER_8]
    + [("llama-biases", "gptq"), ("qwen2", "awq"), ("qwen3", "compressed-tensors")]
    + [("pythia", "gptq"), ("stablelm", "awq"), ("gemma2", "compressed-tensors"), ("granite", "gptq")],
)
def test_every_canonical_tensor_is_the_same(tmp_path: Path, family: str, method: str) -> None:
    """Fused, biased, tied and centred matrices too; rows alone, and as integers where there are such."""
    save(family, tmp_path)
    plain, packed = (load(directory) for directory in quantised(tmp_path, method))
    assert packed.config.weight_group == 32
    assert isinstance(packed.tensors, Tensors)
    assert isinstance(plain.tensors, Tensors)
    integers = 0
    for name, tensor in packed.tensors.items():
        assert np.array_equal(tensor, plain.tensors[name]), name
        rows = slice(3, 23)  # of several heads
        assert np.array_equal(packed.tensors.read(name, rows), tensor[rows])
        codes = packed.tensors.codes(name, rows)
        assert plain.tensors.codes(name, rows) is None
        if isinstance(codes, Codes):
            integers += 1
            scales = codes.scales_of(1)
            assert scales is not None
            assert np.allclose(codes.integers * scales, tensor[rows], rtol=1e-6, atol=0)
        else:
            assert codes is None or "mean" in codes.why
    assert integers == {"pythia": 4, "stablelm": 5}.get(family, 7)


@pytest.mark.parametrize(("method", "scale"), [("gptq", "scales"), ("awq", "scales"), ("compressed-tensors", "weight_scale")])
def test_a_scale_that_is_no_number_is_named(tmp_path: Path, method: str, scale: str) -> None:
    save("llama", tmp_path)
    _, packed = quantised(tmp_path, method)
    tensors = load_file(packed / "model.safetensors")
    base = "model.layers.0.self_attn.q_proj."
    tensors[base + scale][0] = torch.nan
    save_file(tensors, packed / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"tensor {base}weight, made of .*{base}{scale}.*, holds NaN"):
        load(packed)


def test_integers_of_8_bits_that_are_rounded_again_stay_of_8(tmp_path: Path) -> None:
    """Columns of one scale lie apart, so that none is placed; what the file spent on a weight is asked all the same."""
    save("llama", tmp_path)
    program = compile_checkpoint(load(quantised(tmp_path, ACT_ORDER_8)[1]), Machine.load("tiny"), context=8)
    formats = program.weights
    assert isinstance(formats, dict)
    assert {*formats.values()} == {"int4", "int8"}
    assert formats["head"] == "int4", "which is plain"
    assert "lie apart" in program.source["warnings"][0]


@pytest.mark.slow
def test_scales_of_activations_are_left_out_and_told(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    save("llama", tmp_path)
    _, packed = quantised(tmp_path, "compressed-tensors")
    tensors = load_file(packed / "model.safetensors")
    for name in ("mlp.up_proj.input_scale", "self_attn.k_scale", "mlp.up_proj.output_zero_point"):
        tensors[f"model.layers.0.{name}"] = torch.ones(1)
    save_file(tensors, packed / "model.safetensors")
    data = json.loads((packed / "config.json").read_text())
    data["quantization_config"]["config_groups"]["a"]["input_activations"] = {"num_bits": 8}
    (packed / "config.json").write_text(json.dumps(data))
    code, error = said(["compile", packed, "--context", 8, "-o", tmp_path / "out"], capsysbinary)
    assert code == 0
    told = [line for line in error.splitlines() if "input_activations" in line]
    assert len(told) == 1
    assert told[0].startswith("warning: ")


def test_biases_of_zeros_add_nothing(tmp_path: Path) -> None:
    save("llama", tmp_path)
    _, packed = quantised(tmp_path, "gptq")
    tensors = load_file(packed / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.bias"] = torch.zeros(96)
    save_file(tensors, packed / "model.safetensors")
    load(packed)
    tensors["model.layers.0.mlp.up_proj.bias"][3] = 1
    save_file(tensors, packed / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"up_proj\.bias is not known"):
        load(packed)


def test_files_without_a_quantised_tensor_are_refused(tmp_path: Path) -> None:
    save("llama", tmp_path)
    config = {"quant_method": "gptq"} | WAYS["gptq"][0]
    with pytest.raises(
        CheckpointError, match=r"no tensor is quantised; .*config.json: quantization_config.quant_method is 'gptq'"
    ):
        load(write(tmp_path, load_file(tmp_path / "model.safetensors"), {"quantization_config": config}))


def test_shards_of_an_index_are_checked_tensor_by_tensor(tmp_path: Path) -> None:
    """Stored names, not those of the matrices that they make, are the index's."""
    save("llama", tmp_path)
    plain, packed = quantised(tmp_path, "gptq")
    tensors = load_file(packed / "model.safetensors")
    (packed / "model.safetensors").unlink()
    files = {name: f"{'a' if name.endswith('scales') else 'b'}.safetensors" for name in tensors}
    for file in ("a.safetensors", "b.safetensors"):
        save_file({name: tensor for name, tensor in tensors.items() if files[name] == file}, packed / file)
    (packed / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    name = "model.layers.0.mlp.up_proj.weight"
    assert np.array_equal(load(packed).tensors[name], load(plain).tensors[name])
    (packed / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files | {"gone": "a.safetensors"}}))
    with pytest.raises(CheckpointError, match="tensor gone is missing"):
        load(packed)
