"""Checkpoints: what is wrong is named before anything is compiled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from compiler.frontend.checkpoint import expected_shapes, load
from sim.reference.model import SkipLlama, load_hf_state_dict
from skipopu.errors import CheckpointError
from tests.support import random_checkpoint, small_config

CONFIG = small_config()
SKIPGPT = Path(__file__).parents[3] / "shared" / "data" / "skipgpt" / "router_stage1.pth"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    checkpoint = random_checkpoint(CONFIG)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_hf()))
    save_file(checkpoint.tensors, tmp_path / "model.safetensors")
    return tmp_path


def routers(layers: int, hidden: int) -> dict[str, np.ndarray]:
    table = {}
    for layer in range(layers):
        for module in ("attention", "mlp"):
            prefix = f"model.layers.{layer}.router_{module}.weight_predictor."
            table[prefix + "weight"] = np.ones((2, hidden), np.float32) * [[2.0], [1.0]]
            table[prefix + "bias"] = np.array([0.5, 1.0], np.float32)
    return {name: tensor.astype(np.float32) for name, tensor in table.items()}


def test_loads_and_takes_router_differences(directory: Path) -> None:
    assert load(directory).routers is None
    save_file(routers(2, CONFIG.hidden_size), directory / "routers.safetensors")
    found = load(directory).routers
    assert found is not None
    assert (found[1][0].weight == 1).all()
    assert found[1][1].bias == -0.5


def test_peft_prefix_is_understood(directory: Path) -> None:
    table = {"base_model.model." + name: tensor for name, tensor in routers(2, CONFIG.hidden_size).items()}
    save_file(table, directory / "other.safetensors")
    assert load(directory, directory / "other.safetensors").routers is not None


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type is 'mamba'; supported: 'llama', 'olmo'"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; supported: silu, "),
        ({"hidden_size": -1}, "hidden_size is -1; a positive integer is needed"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads 3"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope type is 'llama3'"),
        ({"attention_bias": True}, "attention_bias is True"),
    ],
)
def test_configuration_errors_name_the_key(directory: Path, change: dict, message: str) -> None:
    (directory / "config.json").write_text(json.dumps(CONFIG.to_hf() | change))
    with pytest.raises(CheckpointError, match=message):
        load(directory)


def test_two_layer_routers_are_refused_by_name(directory: Path) -> None:
    table = routers(2, CONFIG.hidden_size)
    table["model.layers.0.router_mlp.hidden_layer.weight"] = np.zeros((4, 4), np.float32)
    save_file(table, directory / "routers.safetensors")
    with pytest.raises(CheckpointError, match="two-layer router"):
        load(directory)


def test_files_that_are_not_checkpoints(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load(directory)
    with pytest.raises(CheckpointError, match="no such file"):
        load(directory / "nowhere")


@pytest.mark.skipif(not SKIPGPT.exists(), reason="published SkipGPT routers are not at hand")
def test_published_skipgpt_routers_have_the_expected_keys(tmp_path: Path) -> None:
    from compiler.frontend.checkpoint import _read_routers

    table = _read_routers(SKIPGPT)
    assert table["model.layers.31.router_mlp.weight_predictor.weight"].shape == (2, 4096)
    assert len(table) == 128
    assert len(expected_shapes(CONFIG)) == 3 + 2 * 9


@pytest.mark.parametrize("tied", [False, True])
def test_layer_norm_becomes_rms_norm(tmp_path: Path, tied: bool) -> None:
    """OLMo's logits by transformers against the converted model's by the reference."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(5)
    config = transformers.OlmoConfig(
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=70,
        max_position_embeddings=32,
        tie_word_embeddings=tied,
        initializer_range=0.3,
        eos_token_id=None,
        pad_token_id=None,
    )
    theirs = transformers.OlmoForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.config.norm == "rms"
    ours = SkipLlama(loaded.config)
    load_hf_state_dict(ours, {name: torch.from_numpy(t) for name, t in loaded.tensors.items()}, {})
    tokens = torch.randint(0, 70, (1, 12))
    with torch.no_grad():
        expected, seen = theirs(tokens).logits, ours(tokens, dense=True).logits
    # Both are FP32; the order of sums differs: 2^-24 times a few hundred terms of the logits' size.
    assert (expected - seen).abs().max() < 2.0**-24 * 300 * expected.abs().max()
