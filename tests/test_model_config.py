"""Model configurations: every key is taken or refused by name."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipopu.errors import CheckpointError
from skipopu.model_config import KEYS, ROPE, ModelConfig
from tests.support import ANYTHING, small_config

CONFIG = small_config()


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
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json: (not valid JSON|the content is)"):
        ModelConfig.load(tmp_path)
