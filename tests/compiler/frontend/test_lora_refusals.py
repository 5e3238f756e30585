"""Adapters that do not fit their model, or ask for what PEFT would do otherwise, are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.frontend.checkpoint import load
from skipopu.errors import CheckpointError
from tests.adapters import PEFT, QUERY, RANK, UP, Arrays, adapter, drawn, pair

Change = Callable[[Arrays], Arrays]


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        ({"peft_type": "IA3"}, None, "config.json: peft_type is 'IA3'; accepted: 'LORA'"),
        ({"peft_type": None}, None, "config.json: peft_type is None; accepted: 'LORA'"),
        ({"r": 0}, None, "r is 0; accepted: an integer from 1"),
        ({"r": 5}, None, r"up_proj.lora_A.weight has shape \(4, 96\); module .*up_proj and rank 5 ask for \(5, 96\)"),
        ({"lora_alpha": "2"}, None, "lora_alpha is '2'; accepted: a number"),
        ({"init_lora_weights": "pissa_niter_4"}, None, "init_lora_weights is 'pissa_niter_4'; accepted: True"),
        ({"layer_replication": [[0, 2]]}, None, r"layer_replication is \[\[0, 2\]\]; accepted: null"),
        ({"trainable_token_indices": [3]}, None, r"trainable_token_indices is \[3\]; accepted: null"),
        ({"use_qalora": True}, None, "use_qalora is True; accepted: null"),
        ({"some_new_thing": {"a": 1}}, None, "some_new_thing, which is not known, is .*; accepted: null"),
        ({"rank_pattern": {"a": "b"}}, None, "rank_pattern is .*; accepted: a mapping of modules to an integer from 1"),
        ({"target_modules": "(up"}, None, r"target_modules is '\(up' \(.*\); accepted: a regular expression"),
        ({"target_modules": None}, None, "config.json: target_modules is None; accepted: printable text or a list"),
        ({"layers_to_transform": 1}, None, "layers_to_transform is beside target_modules of text; accepted: beside a list"),
        ({"layers_pattern": "h"}, None, "layers_pattern is beside target_modules of text; accepted: beside a list"),
        (
            {"target_modules": ["up_proj"], "layers_pattern": "h"},
            None,
            "layers_pattern is without layers_to_transform; accepted: both, or neither",
        ),
        ({"lora_bias": True, "use_dora": True}, None, "lora_bias and use_dora are true; accepted: one of them"),
        (
            {"target_modules": ["w1"]},
            lambda t: {f"{PEFT}model.norm.weight": drawn(96)},
            "model.safetensors: it changes no module; target_modules of adapter_config.json has to name some",
        ),
        ({"modules_to_save": ["lm_head"]}, None, "tensor lm_head.weight is missing; modules_to_save of .* names 'lm_head'"),
        (
            {"modules_to_save": ["norm"]},
            lambda t: {**t, f"{PEFT}model.norm.weight": drawn(96)},
            "tensor model.layers.0.input_layernorm.weight is missing; modules_to_save of .* names 'norm'",
        ),
        ({"alpha_pattern": {"*": 3}}, None, r"alpha_pattern is '\*' \(.*\); accepted: a regular expression"),
        ({"target_modules": ["q_proj"]}, None, "up_proj.lora_A.weight is of module .*, which target_modules of adapter_config"),
        (
            {"target_modules": ["up_proj"]},
            None,
            r"model.safetensors: module model.layers.0.mlp.up_proj has no tensors; target_modules",
        ),
        ({"use_dora": True}, None, r"lora_A.weight has no lora_magnitude_vector beside it; accepted: lora_A and lora_B and"),
        (
            {},
            lambda t: {**t, f"{PEFT}{UP}.lora_magnitude_vector": drawn(200)},
            r"magnitude_vector is not of module .*up_proj; accep",
        ),
        ({}, lambda t: dict(list(t.items())[:1]), r"lora_A.weight has no lora_B beside it; accepted: lora_A and lora_B"),
        ({}, lambda t: dict(list(t.items())[1:]), r"lora_B.weight has no lora_A beside it; accepted: lora_A and lora_B"),
        (
            {},
            lambda t: {n: x[:, :-1].copy() if "_A" in n else x for n, x in t.items()},
            r"lora_A.weight has shape \(4, 95\); mod",
        ),
        (
            {},
            lambda t: {n: x[:-1].copy() if "_B" in n else x for n, x in t.items()},
            r"lora_B.weight has shape \(199, 4\); module",
        ),
        (
            {},
            lambda t: {n: x * np.float32(np.nan) for n, x in t.items()},
            "lora_A.weight holds NaN, infinity, or a number beyond",
        ),
        ({}, lambda t: {n: x.astype(np.int32) for n, x in t.items()}, "lora_A.weight holds I32; accepted: F64, F32, F16, BF16"),
        ({}, lambda t: {n: np.zeros(0, np.float32) for n in t}, r"lora_A.weight has shape \(0,\); accepted: numbers"),
        ({}, lambda t: {}, "model.safetensors: it holds no tensor"),
        (
            {},
            lambda t: {n.replace("layers.1", "layers.7"): x for n, x in t.items()},
            "lora_A.weight is of module model.layers.7.mlp.up_proj, which the model has not",
        ),
        (
            {},
            lambda t: {n.replace("mlp.up_proj", "input_layernorm"): x for n, x in t.items()},
            "input_layernorm, which the model",
        ),
        (
            {},
            lambda t: {**t, f"{PEFT}classifier.weight": drawn(2)},
            "tensor base_model.model.classifier.weight is not known; acc",
        ),
        (
            {},
            lambda t: {**t, f"{PEFT}model.norm.weight": drawn(9)},
            r"model.norm.weight has shape \(9,\); the model's .* has \(96,\)",
        ),
        ({}, lambda t: {**t, f"{PEFT}{UP}.lora_E": drawn(9)}, r"up_proj.lora_E is not known"),
        ({}, lambda t: {**t, f"{PEFT}{UP}.lora_A.bias": drawn(9)}, r"lora_A.bias is not known; accepted: a bias of lora_B"),
        ({}, lambda t: {**t, f"{PEFT}{UP}.lora_B.bias": drawn(200)}, r"lora_B.bias is of a bias, which module .* has not"),
        (
            {},
            lambda t: {**t, f"{PEFT}{UP}.lora_embedding_A": drawn(RANK, 200)},
            "has no lora_embedding_B beside it; accepted: lora_embedding_A and",
        ),
        (
            {},
            lambda t: {**pair(UP, name="one."), **pair(QUERY, name="two.")},
            "is of adapter '(one|two)', others are of '(one|two)'; accepted: those of one",
        ),
        ({}, lambda t: {**t, **pair(UP, name="one.")}, "lora_A.* and .*lora_A.* are the same module's; accepted: one of them"),
        (
            {"use_dora": True},
            lambda t: {
                f"{PEFT}model.embed_tokens.lora_embedding_A": drawn(RANK, 70),
                f"{PEFT}model.embed_tokens.lora_embedding_B": drawn(96, RANK),
            },
            "is of an embedding, and use_dora of adapter_config.json true; accepted: DoRA of linear modules",
        ),
    ],
)
def test_what_does_not_fit_is_named(directory: Path, config: dict[str, Any], change: Change | None, message: str) -> None:
    tensors = pair(UP)
    path = adapter(directory, tensors if change is None else change(tensors), **config)
    with pytest.raises(CheckpointError, match=rf"/adapter/adapter_.*{message}"):
        load(directory, lora=path)


def test_directories_that_are_no_adapters(directory: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere/adapter_config.json: no such file"):
        load(directory, lora=directory / "nowhere")
    path = adapter(directory, pair(UP))
    with pytest.raises(
        CheckpointError, match=r"adapter_config.json: no such file; accepted: one adapter's .*, of adapter in it"
    ):
        load(directory, lora=directory)
    (path / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors: no such file"):
        load(directory, lora=path)


def test_a_pattern_of_layers_may_be_text(directory: Path) -> None:
    """One expression, groups of its own among it; what is none is refused as a whole."""
    asked = {"target_modules": ["up_proj"], "layers_to_transform": 1}
    path = adapter(directory, pair(UP), **asked, layers_pattern="(h|layers)")
    assert load(directory, lora=path).own is not None
    path = adapter(directory, pair(UP), **asked, layers_pattern="(layers")
    with pytest.raises(CheckpointError, match=r"layers_pattern is '\(layers' .*accepted: a regular expression"):
        load(directory, lora=path)
