"""Numbers that FP16 does not hold are named with their tensor, as an error or as a warning of the program."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compiler.frontend.checkpoint import Router
from compiler.pipeline import compile_checkpoint
from skipopu.errors import CheckpointError
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from tests.support import random_checkpoint, small_config

LAYER = "model.layers.1."


def compiled(scales: dict[str, float], weights: str = "int4") -> Program:
    """A program of random weights, those of ``scales`` multiplied."""
    checkpoint = random_checkpoint(small_config(), 2)
    for name, scale in scales.items():
        checkpoint.tensors[name] = checkpoint.tensors[name] * np.float32(scale)
    return compile_checkpoint(checkpoint, Machine.load("tiny"), weights=weights, context=16)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({"model.embed_tokens.weight": 1e5}, "tensor model.embed_tokens.weight holds .*; FP16 embeddings reach 65504"),
        ({LAYER + "mlp.up_proj.weight": 1e7}, f"tensor {LAYER}mlp.up_proj.weight holds .*; 7 times an FP16 scale"),
        ({LAYER + "self_attn.v_proj.weight": 1e30}, f"tensor {LAYER}self_attn.v_proj.weight holds"),
        (
            {LAYER + "input_layernorm.weight": 1e20, LAYER + "self_attn.q_proj.weight": 1e20},
            f"{LAYER}self_attn.*proj.weight holds",
        ),
        ({"model.norm.weight": 1e30, "lm_head.weight": 1e30}, "tensor lm_head.weight holds inf"),
    ],
)
def test_what_no_scale_reaches_is_refused(scales: dict[str, float], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        compiled(scales)


def test_routers_beyond_their_scales_are_refused() -> None:
    checkpoint = random_checkpoint(small_config(), 2)
    assert checkpoint.routers is not None
    _, other = checkpoint.routers[0]
    checkpoint.routers[0] = (Router(np.full(96, 5e5, np.float32), 0.0), other)
    with pytest.raises(CheckpointError, match=r"tensor model.layers.0.router_attention.weight_predictor.weight holds 5e"):
        compile_checkpoint(checkpoint, Machine.load("tiny"))


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_what_loses_its_precision_is_told(weights: str) -> None:
    assert compiled({}, weights).source["warnings"] == []
    small = {"int4": 1e-5, "int8": 1e-4}[weights]
    (lost,) = compiled({LAYER + "self_attn.o_proj.weight": small}, weights).source["warnings"]
    assert lost.startswith(f"tensor {LAYER}self_attn.o_proj.weight loses its precision")
    (lost,) = compiled({"model.embed_tokens.weight": 1e-7}, weights).source["warnings"]
    assert lost.startswith("tensor model.embed_tokens.weight loses its precision")
    (reach,) = compiled({LAYER + "self_attn.v_proj.weight": 1e5, LAYER + "self_attn.o_proj.weight": 1e-3}, weights).source[
        "warnings"
    ]
    assert reach.startswith(f"products of tensor {LAYER}self_attn.v_proj.weight can reach")


@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", LAYER + "self_attn.o_proj.weight", LAYER + "input_layernorm.weight"]
)
def test_what_becomes_zero_is_refused(weights: str, name: str) -> None:
    message = {LAYER + "input_layernorm.weight": LAYER + r"self_attn\..*_proj.weight"}.get(name, name)
    with pytest.raises(CheckpointError, match=f"tensor {message} becomes zero"):
        compiled({name: 1e-9}, weights)
    assert compiled({name: 0}, weights).source["warnings"] == [], "zeros are zeros"


def test_tied_heads_are_named_by_their_tensor() -> None:
    checkpoint = random_checkpoint(small_config(tie_word_embeddings=True), 2)
    gain = checkpoint.tensors["model.norm.weight"]
    checkpoint = dataclasses.replace(checkpoint, tensors=checkpoint.tensors | {"model.norm.weight": gain * np.float32(1e6)})
    with pytest.raises(CheckpointError, match=r"tensor model.embed_tokens.weight holds .* with norm gains folded in"):
        compile_checkpoint(checkpoint, Machine.load("tiny"))


def test_keys_and_values_that_may_saturate_are_told_with_norms_and_biases() -> None:
    def warnings(change: dict[str, object], scales: dict[str, float]) -> list[str]:
        checkpoint = random_checkpoint(small_config(**change), 2)
        for name, scale in scales.items():
            checkpoint.tensors[LAYER + name] = checkpoint.tensors[LAYER + name] * np.float32(scale)
        return compile_checkpoint(checkpoint, Machine.load("tiny"), context=16).source["warnings"]

    large = {"self_attn.k_proj.weight": 2e4}
    assert "k_proj" in warnings({}, large)[0]
    assert warnings({"qk_norm": "head"}, large) == []
    assert warnings({"pre_norm": False}, large) == []
    assert "k_proj" in warnings({"qk_norm": "head"}, {"self_attn.k_norm.weight": 3e4})[0]
    assert "v_proj" in warnings({"biases": ("v",)}, {"self_attn.v_proj.bias": 1e5})[0]
