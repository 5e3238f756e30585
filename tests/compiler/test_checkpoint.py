"""Checkpoints: what is wrong is named before anything is compiled."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import torch as torch_file
from safetensors.numpy import save_file

from compiler.frontend.checkpoint import load
from skipopu.errors import CheckpointError
from tests.support import random_checkpoint, said, small_config

CONFIG = small_config()
SKIPGPT = Path(__file__).parents[3] / "shared" / "data" / "skipgpt" / "router_stage1.pth"


@pytest.mark.parametrize("damage", ["missing", "shape", "nan"])
def test_tensor_errors_name_file_and_tensor(directory: Path, damage: str) -> None:
    tensors = random_checkpoint(CONFIG).tensors
    name = "model.layers.1.mlp.up_proj.weight"
    if damage == "missing":
        del tensors[name]
    elif damage == "shape":
        tensors[name] = tensors[name][:-1].copy()
    else:
        tensors[name][3, 4] = np.nan
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: tensor {name}"):
        load(directory)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.fill_(np.nan), "model.safetensors: tensor {} holds NaN, infinity, or a number beyond FP32"),
        (lambda t: 1e300 * t.double(), "model.safetensors: tensor {} holds NaN, infinity, or a number beyond FP32"),
        (lambda t: 1e9 * t, "tensor .* holds .*e.*reach"),
    ],
)
def test_bad_numbers_are_found_before_anything_is_written(
    directory: Path, capsysbinary: pytest.CaptureFixture[bytes], name: str, change: Callable, message: str
) -> None:
    path, output = directory / "model.safetensors", directory / "out"
    tensors = torch_file.load_file(path)
    tensors[name] = change(tensors[name])
    torch_file.save_file(tensors, path)
    code, error = said(["compile", directory, "-o", output], capsysbinary)
    assert code == 2
    assert re.search(message.format(re.escape(name)), error)
    assert not output.exists() or not list(output.iterdir())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "mlp.up_proj.weight",
            lambda t: t.to(torch.float8_e4m3fn),
            "up_proj.weight holds F8_E4M3; accepted: F64, F32, F16, BF16",
        ),
        ("mlp.up_proj.weight", lambda t: t.to(torch.int8), "up_proj.weight holds I8; accepted"),
        ("mlp.up_proj.weight_scale", lambda t: torch.ones(1), "tensor model.layers.1.mlp.up_proj.weight_scale is not known"),
        ("mlp.up_proj.weight.absmax", lambda t: torch.ones(4), "up_proj.weight.absmax is not known"),
        ("self_attn.q_norm.weight", lambda t: torch.ones(32), "self_attn.q_norm.weight is not known"),
        (
            "self_attn.q_proj.bias",
            lambda t: torch.ones(128),
            "q_proj.bias is not known; accepted: those of a 2-layer llama as config.json describes it",
        ),
        (
            "router_mlp.weight_predictor.weight",
            lambda t: torch.ones(2, 96),
            "model.safetensors: tensor model.layers.0.router_attention.weight_predictor.weight is missing",
        ),
        ("router_mlp.gate.weight", lambda t: torch.ones(2, 96), "router_mlp.gate.weight is not known; accepted: weights and"),
        ("self_attn.q_proj.lora_A.default.weight", lambda t: torch.ones(2, 96), "lora_A.default.weight is not known"),
        ("mlp.up_proj.weight", lambda t: 1e300 * t.double(), "up_proj.weight holds NaN, infinity, or a number beyond FP32"),
        ("self_attn.rotary_emb.inv_freq", lambda t: torch.ones(16), None),
        ("mlp.up_proj.weight", lambda t: t.bfloat16(), None),
    ],
)
def test_tensors_that_would_be_misread_are_refused(directory: Path, name: str, change: Callable, message: str | None) -> None:
    """Packed or scaled numbers, and weights of modules that a Llama does not have."""
    path = directory / "model.safetensors"
    tensors, name = torch_file.load_file(path), f"model.layers.1.{name}"
    tensors[name] = change(tensors.get(name))
    torch_file.save_file(tensors, path)
    with pytest.raises(CheckpointError, match=message) if message else contextlib.nullcontext():
        load(directory)


def test_a_tied_head_equals_the_embedding(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps(CONFIG.to_hf() | {"tie_word_embeddings": True}))
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from the embedding"):
        load(directory)
    tensors = random_checkpoint(CONFIG).tensors
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, directory / "model.safetensors")
    assert "lm_head.weight" not in load(directory).tensors


def test_an_adapter_beside_the_model_is_refused(directory: Path) -> None:
    (directory / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"adapter_config.json: an adapter's weights are read by --lora"):
        load(directory)


def test_shards_are_read_where_there_is_no_single_file(directory: Path) -> None:
    index = directory / "model.safetensors.index.json"
    for broken in ("{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 4}}', '{"weight_map": {}}'):
        index.write_text(broken)
        load(directory)
    single = directory / "model.safetensors"
    tensors = list(random_checkpoint(CONFIG).tensors.items())
    for number in range(2):
        save_file(dict(tensors[number::2]), directory / f"{number}.safetensors")
    single.unlink()
    for broken in ("{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 4}}', '{"weight_map": {}}'):
        index.write_text(broken)
        message = r"weight_map\.a is 4; accepted: printable text" if '"a"' in broken else ""
        with pytest.raises(CheckpointError, match=rf"model.safetensors.index.json: {message}"):
            load(directory)
    index.write_text(json.dumps({"weight_map": {name: f"{n % 2}.safetensors" for n, (name, _) in enumerate(tensors)}}))
    assert len(load(directory).tensors) == len(tensors)
    (directory / "1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1.safetensors: no such file"):
        load(directory)
    index.write_text(json.dumps({"weight_map": {name: "x" * 300 for name, _ in tensors}}))
    with pytest.raises(CheckpointError, match=r"xxx: not a readable safetensors file \(.*too long"):
        load(directory)
    single.symlink_to(directory / "nothing")
    with pytest.raises(CheckpointError, match=r"model.safetensors: no such file"):
        load(directory)


def test_files_that_are_not_checkpoints(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load(directory)
    with pytest.raises(CheckpointError, match="no such file"):
        load(directory / "nowhere")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_any_file_of_an_adapter_is_refused(directory: Path, name: str) -> None:
    (directory / name).write_text("{}")
    with pytest.raises(CheckpointError, match=rf"{name}: an adapter's weights are read by --lora"):
        load(directory)


def test_files_and_index_agree_about_every_tensor(directory: Path) -> None:
    tensors = random_checkpoint(CONFIG).tensors
    head = {"lm_head.weight": tensors["lm_head.weight"]}
    rest = {name: tensor for name, tensor in tensors.items() if name not in head}
    (directory / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(rest, "a.safetensors") | {"lm_head.weight": "b.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(rest, directory / "a.safetensors")
    save_file(head, directory / "b.safetensors")
    load(directory)
    for first, second, message in (
        (rest | head, head, "b.safetensors: tensor lm_head.weight is in a.safetensors too"),
        (rest | {"x": head["lm_head.weight"]}, head, "a.safetensors: tensor x is in this file; .*index.json names none"),
        (rest | head, {}, "a.safetensors: tensor lm_head.weight is in this file; .*index.json names b.safetensors"),
        (rest, {}, "b.safetensors: tensor lm_head.weight is missing; .*index.json names this file"),
    ):
        save_file(first, directory / "a.safetensors")
        save_file(second, directory / "b.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load(directory)


def test_a_whole_file_comes_before_an_index(directory: Path) -> None:
    """As transformers has it."""
    before = load(directory).tensors["model.norm.weight"]
    save_file(random_checkpoint(CONFIG, 9).tensors, directory / "old.safetensors")
    index = {"weight_map": dict.fromkeys(random_checkpoint(CONFIG).tensors, "old.safetensors")}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert (load(directory).tensors["model.norm.weight"] == before).all()


def test_its_own_form_is_read_back_with_biases(tmp_path: Path) -> None:
    """What ``to_hf`` writes loads, tensors and all."""
    checkpoint = random_checkpoint(small_config(biases=("q",)), 1)
    (tmp_path / "config.json").write_text(json.dumps(checkpoint.config.to_hf()))
    save_file(dict(checkpoint.tensors), tmp_path / "model.safetensors")
    loaded = load(tmp_path)
    assert loaded.config == checkpoint.config
    name = "model.layers.1.self_attn.q_proj.bias"
    assert (loaded.tensors[name] == checkpoint.tensors[name]).all()
