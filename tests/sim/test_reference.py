"""The reference against Hugging Face's Llama, and its routing and KV policies against the definition written as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.reference import engine as reference
from sim.reference.model import ACTIVATIONS, SkipLlama, rms_norm
from sim.reference.state import load_hf_state_dict
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.numerics import activation
from skipopu.policy import KvPolicy
from skipopu.program.run import Run
from tests.support import random_checkpoint, small_config


def model_of(config: ModelConfig, seed: int = 0) -> SkipLlama:
    checkpoint = random_checkpoint(config, seed)
    assert checkpoint.routers is not None
    routers = {}
    for layer, both in enumerate(checkpoint.routers):
        for name, router in zip(("attention", "mlp"), both, strict=True):
            prefix = f"model.layers.{layer}.router_{name}.weight_predictor."
            weight = torch.from_numpy(router.weight)
            routers[prefix + "weight"] = torch.stack([weight, torch.zeros_like(weight)])
            routers[prefix + "bias"] = torch.tensor([router.bias, 0.0])
    base = {name: torch.from_numpy(tensor) for name, tensor in checkpoint.tensors.items()}
    return load_hf_state_dict(SkipLlama(config), base, routers).requires_grad_(False)


def test_activations_are_hugging_faces() -> None:
    hugging_face = pytest.importorskip("transformers.activations").ACT2FN
    assert set(ACTIVATIONS) == set(activation.ACTIVATIONS)
    x = torch.linspace(-9, 9, 10001)
    for name, function in ACTIVATIONS.items():
        assert torch.equal(function(x), hugging_face[name](x)), name


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_dense_equals_transformers(tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config = small_config(tie_word_embeddings=tied)
    model = model_of(config)
    hf = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config.to_hf())).eval()
    state = {name: torch.from_numpy(t) for name, t in random_checkpoint(config).tensors.items()}
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    hf.load_state_dict(state)
    tokens = torch.randint(0, config.vocab_size, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = hf(tokens).logits
    ours = model(tokens, dense=True).logits
    # Both are FP32; the order of sums differs: 2^-24 times a few hundred terms of the logits' size.
    assert (theirs - ours).abs().max() < 2.0**-24 * 300 * theirs.abs().max()
    assert (model(tokens, kv=KvPolicy.DENSE).logits - theirs).abs().max() > 0.1, "skipping must matter"


def by_definition(model: SkipLlama, tokens: list[int], kv: KvPolicy) -> torch.Tensor:
    """One token at a time, one head at a time, straight from the definition of the two policies."""
    config = model.config
    dim, half = config.head_dim, config.head_dim // 2
    cache: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in model.layers]
    rows = []
    for position, token in enumerate(tokens):
        h = model.embed_tokens.weight[token]
        angle = position * config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
        cos, sin = angle.cos().float(), angle.sin().float()

        def rotate(x: torch.Tensor, cos: torch.Tensor = cos, sin: torch.Tensor = sin) -> torch.Tensor:
            x = x.view(-1, dim)
            low, high = x[:, :half], x[:, half:]
            return torch.cat([low * cos - high * sin, high * cos + low * sin], 1)

        for index, layer in enumerate(model.layers):
            attend = bool(layer.router_attention(h) >= 0) or (kv is KvPolicy.REUSE and index == 0)
            feed = bool(layer.router_mlp(h) >= 0)
            x = rms_norm(h, layer.input_layernorm, config.rms_norm_eps)
            if attend or kv is KvPolicy.DENSE:
                own = rotate(layer.k_proj(x)), layer.v_proj(x).view(-1, dim)
            else:
                own = cache[index - 1][position]
            cache[index].append(own)
            if attend:
                q = rotate(layer.q_proj(x))
                heads = []
                for head in range(config.num_heads):
                    kv_head = head // config.queries_per_kv_head
                    keys = torch.stack([k[kv_head] for k, _ in cache[index]])
                    values = torch.stack([v[kv_head] for _, v in cache[index]])
                    weights = torch.softmax(keys @ q[head] / math.sqrt(dim), 0)
                    heads.append(weights @ values)
                h = h + layer.o_proj(torch.cat(heads))
            if feed:
                x = rms_norm(h, layer.post_attention_layernorm, config.rms_norm_eps)
                h = h + layer.down_proj(torch.nn.functional.silu(layer.gate_proj(x)) * layer.up_proj(x))
        rows.append(model.lm_head(rms_norm(h, model.norm, config.rms_norm_eps)))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["k_proj", "v_proj"])
def test_overflow_is_no_agreement(name: str) -> None:
    """K and V beyond FP16 are infinite in the reference: nothing can be compared then, and it says so."""
    checkpoint = random_checkpoint(small_config(), 2)
    checkpoint.tensors[f"model.layers.0.self_attn.{name}.weight"] *= np.float32(1e5)
    program = compile_checkpoint(checkpoint, Machine.load("tiny"))
    options = Run((1, 2, 3, 4), 2)
    result = functional.run(program, options)
    assert result.saturated
    assert reference.run(program, options).saturated
    sequence = [*options.prompt, *result.tokens]
    a = reference.agreement(program, options, [sequence], 4, result.routing[None])
    assert a.non_finite
    assert not a.ok


@pytest.mark.parametrize("kv", KvPolicy)
def test_policies_follow_their_definition(kv: KvPolicy) -> None:
    config = small_config(num_layers=4)
    model = model_of(config, 3)
    tokens = torch.randint(0, config.vocab_size, (24,), generator=torch.Generator().manual_seed(2)).tolist()
    out = model(torch.tensor([tokens]), kv=kv)
    assert 0.3 < out.gates.mean() < 0.95
    assert (out.logits[0] - by_definition(model, tokens, kv)).abs().max() < 1e-4
