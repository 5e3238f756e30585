"""GGUF files, written by the package, load as the checkpoints that they are made of."""

from __future__ import annotations

import json
import sys
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
from skipopu.model_config import ModelConfig
from tests.support import said

gguf: Any = pytest.importorskip("gguf")
pytest.importorskip("transformers")

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    **{f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"},
    **{f"self_attn.{part}_norm": f"attn_{part}_norm" for part in "qk"},
    **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
}


def neighbours(tensor: np.ndarray, heads: int) -> np.ndarray:
    """Rows i and i + n of each head's 2 n become rows 2 i and 2 i + 1."""
    dim = len(tensor) // heads
    rows = [head * dim + half * dim // 2 + i for head in range(heads) for i in range(dim // 2) for half in range(2)]
    return tensor[rows]


def convert(directory: Path, kind: str = "F32", extra: dict[str, Any] | None = None, drop: str = "-") -> Path:
    """The checkpoint as one file: matrices of layers as ``kind``, all else as F32."""
    data = json.loads((directory / "config.json").read_text())
    architecture = data["model_type"]
    path = directory / f"{kind}.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    heads, kv = data["num_attention_heads"], data["num_key_value_heads"]
    head_dim = data.get("head_dim") or data["hidden_size"] // heads
    writer.add_block_count(data["num_hidden_layers"])
    writer.add_context_length(data["max_position_embeddings"])
    writer.add_embedding_length(data["hidden_size"])
    writer.add_feed_forward_length(data["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(data["rms_norm_eps"])
    writer.add_rope_freq_base(data["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(data["vocab_size"])
    writer.add_token_list([f"token {n}" for n in range(data["vocab_size"])])
    for key, value in (extra or {}).items():
        if value is None:
            del writer.kv_data[0][f"{architecture}.{key}"]
        elif isinstance(value, np.ndarray):
            writer.add_tensor(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        else:
            (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    for name, tensor in load_file(directory / "model.safetensors").items():
        module, _, last = name.rpartition(".")
        layer = module.split(".")[2] if ".layers." in module else None
        part = module.split(".", 3)[3] if layer else module
        array = tensor.float().numpy()
        if part == drop:
            continue
        if architecture == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
            array = neighbours(array, heads if "q_proj" in part else kv)
        of = gguf.GGMLQuantizationType[kind if layer and array.ndim == 2 else "F32"]
        writer.add_tensor(
            f"blk.{layer}.{NAMES[part]}.{last}" if layer else f"{NAMES[part]}.{last}", gguf.quantize(array, of), raw_dtype=of
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("family", ["llama", "llama-biases", "qwen2", "qwen3"])
def test_floating_numbers_are_the_checkpoints(tmp_path: Path, family: str) -> None:
    """Rows of Q and K in transformers' order again; tied heads, biases, norms of heads."""
    save(family, tmp_path)
    if family == "llama-biases":  # llama.cpp has none of these
        tensors = {n: t for n, t in load_file(tmp_path / "model.safetensors").items() if "mlp" not in n or "bias" not in n}
        data = json.loads((tmp_path / "config.json").read_text()) | {"mlp_bias": False}
        (tmp_path / "config.json").write_text(json.dumps(data))
        save_file(tensors, tmp_path / "model.safetensors")
    expected, found = load(tmp_path), load(convert(tmp_path))
    assert found.config.rms_norm_eps == pytest.approx(expected.config.rms_norm_eps)
    assert {**vars(found.config), "rms_norm_eps": 0} == {**vars(expected.config), "rms_norm_eps": 0}
    assert found.tensors.keys() == expected.tensors.keys()
    assert isinstance(found.tensors, Tensors)
    for name, tensor in expected.tensors.items():
        assert np.array_equal(found.tensors[name], tensor), name
        assert np.array_equal(found.tensors.read(name, slice(3, 9)), tensor[3:9]), name


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q8_0"])
def test_blocks_are_dequantised_as_by_the_package(tmp_path: Path, kind: str) -> None:
    save("llama", tmp_path)
    expected, found = load(tmp_path), load(convert(tmp_path, kind))
    of = gguf.GGMLQuantizationType[kind]
    assert isinstance(found.tensors, Tensors)
    for name, tensor in expected.tensors.items():
        if ".layers." in name and tensor.ndim == 2:
            tensor = gguf.dequantize(gguf.quantize(tensor, of), of).reshape(tensor.shape)
            codes = found.tensors.codes(name, slice(2, 11))
            assert isinstance(codes, Codes) == (kind[0] == "Q")
            if isinstance(codes, Codes):
                assert np.array_equal(codes.integers * np.repeat(codes.scales, 32, 1), tensor[2:11])
        assert np.array_equal(found.tensors[name], tensor), name
    assert found.config.weight_group == (32 if kind[0] == "Q" else 128)


def test_bytes_of_q8_0_are_placed_as_they_are(tmp_path: Path) -> None:
    """Where gains are ones. Q4_0 turns the largest to -8, with a scale of either sign: INT8 holds all of it."""
    save("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({n: torch.ones_like(t) if t.dim() == 1 else t for n, t in tensors.items()}, tmp_path / "model.safetensors")
    machine = Machine.load("tiny")
    for kind in ("Q8_0", "Q4_0"):
        checkpoint = load(convert(tmp_path, kind))
        assert compile_checkpoint(checkpoint, machine, weights="int8").source["warnings"] == []
        if kind == "Q8_0":
            assert compile_checkpoint(checkpoint, machine).matrices["down"]["format"] == "int8", "the default is the file's"
        (told,) = compile_checkpoint(checkpoint, machine, weights="int4").source["warnings"]
        assert told.startswith(
            "21 of 21 quantised matrices are rounded again: 21 as their integers, less zero points, are beyond int4"
        )


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"llama.expert_count": 8}, "llama.expert_count is not known; accepted: block_count"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'; accepted: none, linear"),
        ({"llama.rope.scaling.factor": "2"}, "llama.rope.scaling.factor is '2'; accepted: a number from 0"),
        ({"context_length": None}, "llama.context_length is missing; accepted: a number"),
        ({"split.count": 2}, "split.count is 2; accepted: 0 or 1"),
        ({"split.count": "2"}, "split.count is '2'; accepted: 0 or 1"),
        ({"embedding_length": None, "llama.embedding_length": "96"}, "llama.embedding_length is '96'; accepted: an integer"),
        (
            {"attention.head_count": None, "llama.attention.head_count": [4, 4, 4]},
            r"llama.attention.head_count is \[4, 4, 4\]; accepted: an integer",
        ),
        (
            {"model.norm.weight": np.ones(96, np.float32)},
            "tensor output_norm.weight is model.norm.weight, of which there is another one",
        ),
        ({"llama.attention.sliding_window": 4}, "llama.attention.sliding_window is not known"),
    ],
)
def test_what_would_change_the_model_is_refused(tmp_path: Path, extra: dict[str, Any], message: str) -> None:
    save("llama", tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load(convert(tmp_path, extra=extra))


def test_what_is_left_out_is_as_in_llama_cpp(tmp_path: Path) -> None:
    """Scaling is linear where a factor stands alone, and beside frequencies; each head has keys of its own."""
    save("llama", tmp_path)
    plain = np.array(load(convert(tmp_path)).config.rope_tables[0].frequencies)
    divisors = np.linspace(1, 3, len(plain), dtype=np.float32)
    scaled = {"llama.rope.scaling.factor": 4}
    for extra, expected in (
        (scaled, plain / 4),
        (scaled | {"rope_freqs.weight": divisors}, plain / 4 / divisors),
        (scaled | {"rope_freqs.weight": divisors, "llama.rope.scaling.type": "none"}, plain / divisors),
        ({"llama.rope.scaling.factor": 0}, plain),
    ):
        assert np.allclose(load(convert(tmp_path, extra=extra)).config.rope_tables[0].frequencies, expected)
    save("qwen2", tmp_path)
    with pytest.raises(CheckpointError, match=r"tensor rope_freqs\.weight is not known of qwen2"):
        load(convert(tmp_path, extra={"rope_freqs.weight": divisors}))
    path = convert(tmp_path, extra={"attention.head_count_kv": None})
    assert ModelConfig.load(path).num_kv_heads == ModelConfig.load(path).num_heads


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"a\.gguf: the package gguf is not installed; pip install 'skipopu\[gguf\]'"):
        load(tmp_path / "a.gguf")


def test_files_that_cannot_be_read_are_named(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    save("llama", tmp_path)
    path = convert(tmp_path, drop="self_attn.v_proj")
    with pytest.raises(CheckpointError, match=r"F32\.gguf: tensor model\.layers\.0\.self_attn\.v_proj\.weight is missing"):
        load(path)
    path = convert(tmp_path, "Q5_0")
    with pytest.raises(CheckpointError, match=r"tensor blk\.0\..* holds Q5_0; accepted: F32, F16, BF16, Q4_0, Q8_0"):
        load(path)
    for content in (b"", b"GGUF", path.read_bytes()[:9000], b"GGUF" + bytes(200), bytes(100)):
        (tmp_path / "bad.gguf").write_bytes(content)
        code, error = said(["compile", tmp_path / "bad.gguf", "-o", tmp_path / "out"], capsysbinary)
        assert code == 2
        assert "bad.gguf: not a readable GGUF file" in error
    code, error = said(["compile", tmp_path / "none.gguf", "-o", tmp_path / "out"], capsysbinary)
    assert (code, "none.gguf: no such file" in error) == (2, True)


def test_an_adapter_is_added_to_rows_in_transformers_order(tmp_path: Path) -> None:
    """A file's rows of Q stand in another order than an adapter's."""
    save("llama", tmp_path)
    file, name, rng = convert(tmp_path), "model.layers.1.self_attn.q_proj", np.random.default_rng(0)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "target_modules": "all-linear",
                "r": 3,
                "lora_alpha": 6,
                "bias": "none",
                "init_lora_weights": True,
            }
        )
    )
    shape = load(file).tensors[f"{name}.weight"].shape
    first, second = (rng.standard_normal(size).astype(np.float32) for size in ((3, shape[1]), (shape[0], 3)))
    parts = {f"{name}.lora_A.weight": torch.from_numpy(first), f"{name}.lora_B.weight": torch.from_numpy(second)}
    save_file(parts, adapter / "adapter_model.safetensors")
    added = load(file, lora=adapter).tensors[f"{name}.weight"] - load(tmp_path).tensors[f"{name}.weight"]
    assert np.allclose(added, 2 * second @ first, atol=1e-5)
