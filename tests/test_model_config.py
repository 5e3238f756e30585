"""Model configurations: every key is taken or refused by name."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipopu.errors import CheckpointError
from skipopu.families import FAMILIES, KEYS, OPTIONAL
from skipopu.model_config import GENERAL, OWN, ModelConfig
from skipopu.rope import TYPES
from tests.support import ANYTHING, small_config

CONFIG = small_config()
GEMMA3 = {"model_type": "gemma3_text", "sliding_window_pattern": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type is 'mamba'; accepted: 'llama' or 'mistral' or"),
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
        ({"attention_bias": 0}, "attention_bias is 0; accepted: true or false or null"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; accepted: 1 for llama"),
        ({"partial_rotary_factor": 2}, "partial_rotary_factor is 2; accepted: a number from 0 to 1"),
        ({"eos_token_id": -1}, "eos_token_id is -1; accepted: an integer from 0"),
        ({"eos_token_id": [2, True]}, r"eos_token_id is \[2, True\]; accepted"),
        ({"eos_token_id": ["2"]}, r"eos_token_id is \['2'\]; accepted"),
        ({"eos_token_id": [2, 70]}, "eos_token_id is 70; accepted: ids below vocab_size, 70"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "quantization_config.quant_method is 'bitsandbytes'; accepted: 'awq' or 'compressed-tensors' or",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config.quant_method is None; accepted: 'awq'"),
        ({"quantization_config": [4]}, r"quantization_config is \[4\]; accepted: a mapping of names or null"),
        ({"rope_scaling": [4]}, r"rope_scaling is \[4\]; accepted: a mapping of names or null"),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2}},
            "rope_scaling is .*linear.* and rope_parameters is .*default.*; accepted: one of them, or the same",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "rope_parameters is .*; accepted: the keys of one table",
        ),
        ({"rope_scaling": {"rope_type": "ntk"}}, "rope_scaling.rope_type is 'ntk'; accepted: 'default' or 'linear'"),
        ({"rope_scaling": {"rope_type": "linear", "type": "yarn"}}, "rope_type is 'linear' and type is 'yarn'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling.factor is missing; rope_type 'linear' needs a number"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "4"}}, "rope_scaling.factor is '4'; accepted: a number"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 4, "alpha": 2}},
            "rope_scaling.alpha is 2; accepted keys of rope_type",
        ),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}},
            "rope_scaling.short_factor has 1 numbers; accepted: 16, one for each pair",
        ),
        (
            {"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}},
            "low_freq_factor is 4 and high_freq_factor is 4; accepted: a larger",
        ),
        ({"sliding_window": 16}, "sliding_window is 16; accepted: null"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window is 0; accepted: an integer from 1"),
        ({"model_type": "qwen2", "layer_types": ["full_attention"]}, "layer_types has 1 entries; accepted: 2"),
        (
            {"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]},
            "layer_types asks for sliding_attention and sliding_window for none",
        ),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "no_rope_layers has 1 entries; accepted: 2"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0; accepted: null"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ({"is_causal": False}, "is_causal is False; accepted: True"),
        ({"per_layer_config": {"1": {"hidden_act": "relu"}}}, "per_layer_config is {'1': .*; accepted: null or {}"),
        (
            {"model_type": "phi3", "sliding_window": 16, "layer_types": ["full_attention"] * 2},
            "layer_types is .* beside sliding_window; accepted: one",
        ),
        ({"model_type": "gpt_neox", "rope_theta": 5e5}, "rotary_emb_base, by default, is 10000 and rope_theta is 5"),
        (
            {"model_type": "gpt_neox", "partial_rotary_factor": 0.5},
            "rotary_pct, by default, is 0.25 and partial_rotary_factor is 0.5; accepted: one value",
        ),
        ({"model_type": "granite", "attention_multiplier": 0}, "attention_multiplier is 0; accepted: a number from 1e-09"),
        ({"skipopu": {"attention_scale": -0.1}}, "attention_scale is -0.1; accepted: a number from 1e-09"),
        ({"model_type": "stablelm", "qk_layernorm": True}, "qk_layernorm is True; accepted: False or null"),
        ({"model_type": "stablelm", "partial_rotary_factor": 0.1}, "3 of 32 elements of a head are rotated; accepted: an even"),
        (
            {"model_type": "gpt_neox", "rotary_pct": 0.5, "rope_parameters": {"partial_rotary_factor": 1}},
            "factor is 1 and rotary_pct is 0.5",
        ),
        (
            {
                "model_type": "phi3",
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": [1.0] * 16,
                    "long_factor": [1.0] * 16,
                    "original_max_position_embeddings": 8,
                },
            },
            "original_max_position_embeddings is 8 and original_max_position_embeddings, by default, is 4096; accepted: one",
        ),
        ({"residual_multiplier": 0.2}, "residual_multiplier is 0.2; accepted: 1 or 1.0 or null"),
        ({"skipopu": {"window": 4}}, "skipopu.window is not known; accepted: rope,"),
        (
            {"skipopu": {"ffn_norm_bias": True, "pre_norm": False}},
            "ffn_norm_bias is true and pre_norm false; accepted: a bias of",
        ),
        ({"skipopu": {"counted_head_dim": 33}}, "counted_head_dim is 33; accepted: up to head_dim, 32"),
        ({"skipopu": {"windows": [4]}}, "skipopu.windows has 1 entries; accepted: 2"),
        ({"skipopu": {"rope_of_layer": [0, 1]}}, "skipopu.rope_of_layer names table 1; accepted: below 1"),
        ({"skipopu": {"rope": [{"frequencies": [1.0]}]}}, "skipopu.rope is .*; accepted: a list .of a mapping of frequencies"),
        (
            {"rope_parameters": {"rope_theta": 5e5}},
            "rope_parameters.rope_theta is 500000 and rope_theta is 10000; accepted: one",
        ),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads 3"),
        (
            {"transformers_weights": "b.safetensors"},
            "transformers_weights is 'b.safetensors'; accepted: null or 'model.safeten",
        ),
        (
            {
                "rope_theta": None,
                "rope_scaling": {"rope_type": "default"},
                "rope_parameters": {"rope_type": "default", "rope_theta": 500},
            },
            "rope_theta, by default, is 10000 and rope_parameters.rope_theta is 500; accepted: one value",
        ),
        (
            {"model_type": "qwen3", "rope_parameters": {"full_attention": {"rope_theta": 5e5}}},
            "rope_parameters is .*; accepted: the keys of one table",
        ),
        (GEMMA3 | {"rope_scaling": {"type": "linear", "factor": 8}}, "rope_scaling.type is 'linear'"),
        (
            GEMMA3 | {"rope_scaling": {"rope_type": "yarn", "factor": 8, "truncate": False}},
            "rope_scaling.truncate is False; accepted: True for gemma3_text",
        ),
        (
            GEMMA3 | {"original_max_position_embeddings": 32, "rope_scaling": {"rope_type": "yarn", "factor": 8}},
            "original_max_position_embeddings is 32 and max_position_embeddings is 64; accepted: one value",
        ),
    ],
)
def test_configuration_errors_name_the_key(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_hf() | change))
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.load(tmp_path)


def test_what_null_and_absent_keys_mean(tmp_path: Path) -> None:
    data = CONFIG.to_hf() | {"rope_theta": None, "head_dim": None, "num_key_value_heads": None, "eos_token_id": [5, 5, 6]}
    del data["tie_word_embeddings"]
    config = ModelConfig.from_dict(data)
    assert (config.rope_theta, config.head_dim, config.num_kv_heads) == (10000, 24, 4)
    assert (config.eos_token_ids, config.tie_word_embeddings) == ((5, 6), False)
    data |= {"rope_parameters": {"rope_type": "default", "rope_theta": 500000}, "rope_scaling": None}
    assert ModelConfig.from_dict(data).rope_theta == 500000
    assert ModelConfig.from_dict(CONFIG.to_hf()) == CONFIG
    (tmp_path / "config.json").write_text("\ufeff" + json.dumps(CONFIG.to_hf()))
    assert ModelConfig.load(tmp_path) == CONFIG


INNER_KEYS = sorted({*GENERAL, "rope_type", "rope_theta", "full_attention"}.union(*TYPES.values()))


@given(
    st.sampled_from(sorted(FAMILIES)),
    st.dictionaries(
        st.sampled_from(sorted({*KEYS, *OPTIONAL, OWN} - {"model_type"})),
        ANYTHING | st.dictionaries(st.sampled_from(INNER_KEYS), ANYTHING | st.sampled_from(sorted(TYPES)), max_size=4),
        max_size=3,
    ),
)
def test_any_value_is_taken_or_refused(family: str, changes: dict) -> None:
    with contextlib.suppress(CheckpointError):
        config = ModelConfig.from_dict(CONFIG.to_hf() | {"model_type": family} | changes)
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_hf()))) == config


def test_null_does_not_truncate_a_ramp() -> None:
    def of(**more: bool | None) -> ModelConfig:
        return ModelConfig.from_dict(CONFIG.to_hf() | {"rope_scaling": {"rope_type": "yarn", "factor": 8, **more}})

    assert of(truncate=None) == of(truncate=False) != of() == of(truncate=True)


def test_gelu_of_gemma_is_that_by_tanh() -> None:
    data = CONFIG.to_hf() | {"model_type": "gemma", "hidden_act": "gelu"}
    assert ModelConfig.from_dict(data).hidden_act == "gelu_pytorch_tanh"
    assert ModelConfig.from_dict(data | {"hidden_activation": "gelu_pytorch_tanh"}) == ModelConfig.from_dict(data)
    with pytest.raises(CheckpointError, match="hidden_activation is 'relu' and hidden_act is 'gelu_pytorch_tanh'"):
        ModelConfig.from_dict(data | {"hidden_activation": "relu"})
    del data["hidden_act"]
    with pytest.raises(CheckpointError, match="'relu' and hidden_act, by default, is 'gelu_pytorch_tanh'"):
        ModelConfig.from_dict(data | {"hidden_activation": "relu"})


def test_end_tokens_of_both_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_hf() | {"eos_token_id": 5}))
    beside = tmp_path / "generation_config.json"
    for ids, expected in (([5, 7], (5, 7)), (9, (5, 9)), (None, (5,))):
        beside.write_text(json.dumps({"eos_token_id": ids}))
        assert ModelConfig.load(tmp_path).eos_token_ids == expected
    for ids, message in (("7", "eos_token_id is '7'"), (70, "eos_token_id is 70; accepted: ids below vocab_size, 70")):
        beside.write_text(json.dumps({"eos_token_id": ids}))
        with pytest.raises(CheckpointError, match=rf"generation_config.json: {message}"):
            ModelConfig.load(tmp_path)
    beside.unlink()
    beside.symlink_to(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"generation_config\.json: no such file"):
        ModelConfig.load(tmp_path)


def test_windows_beyond_the_model_are_none(tmp_path: Path) -> None:
    data = CONFIG.to_hf() | {"model_type": "mistral"}
    assert ModelConfig.from_dict(data | {"sliding_window": 64}).windows == ()
    assert ModelConfig.from_dict(data | {"sliding_window": 63}).windows == (63, 63)
    assert ModelConfig.from_dict(data | {"sliding_window": None}).windows == ()


def test_tables_end_where_the_model_would_take_others() -> None:
    """A longrope model is right up to the positions of its short factors; beside the same key twice nothing changes."""
    long = {"rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [2.0] * 16}
    data = CONFIG.to_hf() | {"model_type": "phi3", "original_max_position_embeddings": 32, "rope_scaling": long}
    assert ModelConfig.from_dict(data).max_positions == 32
    assert ModelConfig.from_dict(data).rope[0].factor > 1
    assert ModelConfig.from_dict(data | {"rope_scaling": long | {"rope_type": "su"}}) == ModelConfig.from_dict(data)
    twice = data | {"rope_parameters": long | {"rope_theta": 1e4}}
    assert ModelConfig.from_dict(twice) == ModelConfig.from_dict(data)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"4", b"{", b"\xff\xfe", b'{"hidden_size": 1' + b"0" * 5000 + b"}", b"[" * 100_000]
)
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json: (not valid JSON|the content is)"):
        ModelConfig.load(tmp_path)


def test_the_family_is_asked_first() -> None:
    with pytest.raises(CheckpointError, match="model_type is 'gemma3'; accepted"):
        ModelConfig.from_dict({"model_type": "gemma3", "text_config": {}})
