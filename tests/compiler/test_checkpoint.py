"""Checkpoints: what is wrong is named before anything is compiled."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import torch as torch_file
from safetensors.numpy import save_file

from compiler.frontend.checkpoint import expected_shapes, load
from sim.reference.model import SkipLlama, load_hf_state_dict
from skipopu.errors import CheckpointError
from skipopu.model_config import KEYS, ROPE, ModelConfig
from tests.support import ANYTHING, random_checkpoint, small_config

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
        ({"model_type": "mamba"}, "model_type is 'mamba'; accepted: 'llama' or 'olmo'"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; accepted: 'silu' or "),
        ({"model_type": ["llama"]}, r"model_type is \['llama'\]; accepted"),
        ({"hidden_act": {}}, "hidden_act is {}; "),
        ({"hidden_size": -1}, "hidden_size is -1; accepted: an integer from 1"),
        ({"hidden_size": 96.0}, "hidden_size is 96.0; accepted: an integer from 1"),
        ({"hidden_size": "96"}, "hidden_size is '96'; accepted: an integer from 1"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; accepted: an integer from 1"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000; accepted: an integer from 1"),
        ({"vocab_size": None}, "vocab_size is None; accepted: an integer from 1"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan; accepted: a number from"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps is -1e-05; accepted: a number from"),
        ({"rope_theta": float("inf")}, "rope_theta is inf; accepted: a number from 1 to 1e"),
        ({"rope_theta": 10**400}, "rope_theta is 1000"),
        ({"tie_word_embeddings": 0}, "tie_word_embeddings is 0; accepted: true or false"),
        ({"attention_bias": 0}, "attention_bias is 0; accepted: False or null"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; accepted: 1 or 1.0 or null"),
        ({"eos_token_id": -1}, "eos_token_id is -1; accepted: an integer from 0"),
        ({"eos_token_id": [2, True]}, r"eos_token_id is \[2, True\]; accepted"),
        ({"eos_token_id": ["2"]}, r"eos_token_id is \['2'\]; accepted"),
        ({"eos_token_id": [2, 70]}, "eos_token_id is 70; accepted: ids below vocab_size, 70"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config is {'quant_method': 'awq'}; accepted: null"),
        ({"rope_scaling": [4]}, r"rope_scaling is \[4\]; accepted: a mapping of names or null"),
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear"}}, "rope_scaling.type is 'linear'"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "rope_parameters.full_attention is {'rope_type': 'yarn'}",
        ),
        (
            {"rope_parameters": {"rope_theta": 5e5}},
            "rope_theta is 10000 and rope_parameters.rope_theta is 500000; accepted: one",
        ),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads 3"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling.rope_type is 'llama3'; accepted: 'default'"),
        ({"attention_bias": True}, "attention_bias is True"),
    ],
)
def test_configuration_errors_name_the_key(directory: Path, change: dict, message: str) -> None:
    (directory / "config.json").write_text(json.dumps(CONFIG.to_hf() | change))
    with pytest.raises(CheckpointError, match=message):
        load(directory)


def test_what_null_and_absent_keys_mean(directory: Path) -> None:
    data = CONFIG.to_hf() | {"rope_theta": None, "head_dim": None, "num_key_value_heads": None, "eos_token_id": [5, 5, 6]}
    del data["tie_word_embeddings"]
    config = ModelConfig.from_dict(data)
    assert (config.rope_theta, config.head_dim, config.num_kv_heads) == (10000, 24, 4)
    assert (config.eos_token_ids, config.tie_word_embeddings) == ((5, 6), False)
    data |= {"rope_parameters": {"rope_type": "default", "rope_theta": 500000}, "rope_scaling": None}
    assert ModelConfig.from_dict(data).rope_theta == 500000
    assert ModelConfig.from_dict(CONFIG.to_hf()) == CONFIG
    (directory / "config.json").write_text("\ufeff" + json.dumps(CONFIG.to_hf()))
    assert load(directory).config == CONFIG


@given(
    st.dictionaries(
        st.sampled_from(sorted(KEYS)), ANYTHING | st.dictionaries(st.sampled_from(sorted(ROPE)), ANYTHING), max_size=3
    )
)
def test_any_value_is_taken_or_refused(changes: dict) -> None:
    with contextlib.suppress(CheckpointError):
        config = ModelConfig.from_dict(CONFIG.to_hf() | changes)
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_hf()))) == config


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"4", b"{", b"\xff\xfe", b'{"hidden_size": 1' + b"0" * 5000 + b"}", b"[" * 100_000]
)
def test_files_that_are_no_configuration(directory: Path, content: bytes) -> None:
    (directory / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json: (not valid JSON|the content is)"):
        load(directory)


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
            "q_proj.bias is not known; accepted: those of a 2-layer Llama without biases",
        ),
        (
            "router_mlp.weight_predictor.weight",
            lambda t: torch.ones(2, 96),
            "router_mlp.weight_predictor.weight is not known; .* routers in",
        ),
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
    with pytest.raises(CheckpointError, match=r"adapter_config.json: an adapter's weights are not read"):
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
        with pytest.raises(CheckpointError, match=r"model.safetensors.index.json: "):
            load(directory)
    index.write_text(json.dumps({"weight_map": {name: f"{n % 2}.safetensors" for n, (name, _) in enumerate(tensors)}}))
    assert len(load(directory).tensors) == len(tensors)
    (directory / "1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1.safetensors: no such file"):
        load(directory)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"a": torch.ones(1)}}, "entry state_dict is "),
        ([torch.ones(1)], "the content is "),
        (
            {"model.layers.0.router_mlp.weight_predictor.weight": torch.ones(2, 96, dtype=torch.int8)},
            "entry model.layers.0.router_mlp",
        ),
        ({3: torch.ones(1)}, "the content is"),
        ({"model.layers.7.router_mlp.weight_predictor.bias": torch.ones(2)}, "bias is of a layer beyond the model's 2"),
        (
            {"model.layers.0.router_mlp.weight_predictor.bias": torch.tensor([3e38, -3e38])},
            "router_mlp.weight_predictor.bias differ by more",
        ),
    ],
)
def test_router_files_name_what_is_wrong(directory: Path, content: object, message: str) -> None:
    if message.startswith("bias is of") or message.endswith("differ by more"):
        content = {name: torch.from_numpy(tensor) for name, tensor in routers(2, 96).items()} | content  # type: ignore[operator]
    torch.save(content, directory / "routers.pth")
    with pytest.raises(CheckpointError, match=f"routers.pth: .*{message}"):
        load(directory, directory / "routers.pth")


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
