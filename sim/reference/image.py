"""The model that a program's image describes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from compiler.passes.fold import attention_scale
from sim.reference.masks import thresholds_of
from sim.reference.model import SkipLlama
from sim.reference.state import load_hf_state_dict
from skipopu.adjust_record import adjust_operands
from skipopu.layout import EmbeddingRows
from skipopu.numerics.formats import dequantise
from skipopu.program.program import Program
from skipopu.records import router_record
from skipopu.row_order import permutation


def dequantised(program: Program, name: str, layer: int = 0) -> NDArray[np.float32]:
    """One matrix of the image as (rows, n) float32 in the checkpoint's row order."""
    d = program.matrices[name]
    stream = program.stream(name)
    address = d["address"] + layer * d["layer_stride"]
    rows = dequantise(*stream.unpack([port[address : address + stream.size] for port in program.memory]), d["n"])
    return _unordered(program, d["order"], rows)


def _unordered(program: Program, order: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of the image in the checkpoint's order."""
    ordered = np.empty_like(rows)
    ordered[permutation(order, program.model, len(rows))] = rows
    return ordered


def adjusted(program: Program, name: str, layer: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gains and biases of an ADJUST, (elements,) each, in the checkpoint's order; ones and zeros where there is none."""
    d = program.adjusts[name]
    operands = adjust_operands(program.memory[0], d["address"] + layer * d["layer_stride"], d["elements"])
    gains, biases = (_unordered(program, d["order"], part) for part in operands)
    return gains, biases


def model_of(program: Program, dtype: torch.dtype = torch.float32) -> SkipLlama:
    """The model that the image describes; gains of norms in front of products are part of its weights."""
    config = program.model
    region = program.regions["embedding"]
    embedding = EmbeddingRows(config.hidden_size, config.vocab_size, program.machine.ports)
    table = embedding.unpack([port[region.address : region.address + embedding.size] for port in program.memory])
    one = np.ones(config.hidden_size, np.float32)
    base: dict[str, NDArray[np.float32]] = {"model.norm.weight": one, "lm_head.weight": dequantised(program, "head")}
    if config.final_bias:
        base["model.norm.weight"], base["model.norm.bias"] = adjusted(program, "final")
    for layer in range(config.num_layers):
        base |= {f"model.layers.{layer}.{name}": tensor for name, tensor in _layer(program, layer).items()}
    routers: dict[str, NDArray[np.float32]] = {}
    for layer in range(config.num_layers):
        routers |= {f"model.layers.{layer}.{name}": tensor for name, tensor in _routers(program, layer).items()}
    # The head is quantised, the embedding is not: they are never tied here.
    model = SkipLlama(config.untied).to(dtype)
    base["model.embed_tokens.weight"] = table.astype(np.float32)
    load_hf_state_dict(
        model, {n: torch.from_numpy(t) for n, t in base.items()}, {n: torch.from_numpy(t) for n, t in routers.items()}
    )
    model.round_kv = True
    model.thresholds = thresholds_of(program)
    return model.requires_grad_(False)


def _routers(program: Program, layer: int) -> dict[str, NDArray[np.float32]]:
    """The tensors of one layer's routers."""
    digits = dequantised(program, "router", layer)
    bias, _ = router_record(program.memory[0], program.router_record[0] + layer * program.router_record[1])
    hidden, added = np.zeros((0, 0), np.float32), np.zeros(0, np.float32)
    if two := "router_hidden" in program.matrices:
        hidden, (_, added) = dequantised(program, "router_hidden", layer), adjusted(program, "router_hidden", layer)
    tensors: dict[str, NDArray[np.float32]] = {}
    for module, name in enumerate(("attention", "mlp")):
        weight, prefix = digits[2 * module] + digits[2 * module + 1], f"router_{name}"
        if two:  # each reads its half of what the first layer gives
            weight = np.split(weight, 2)[module]
            tensors[f"{prefix}.hidden_layer.weight"] = np.split(hidden, 2)[module]
            tensors[f"{prefix}.hidden_layer.bias"] = np.split(added, 2)[module]
        tensors[f"{prefix}.weight_predictor.weight"] = np.stack([weight, 0 * weight])
        tensors[f"{prefix}.weight_predictor.bias"] = np.array([bias[module], 0], np.float32)
    return tensors


def _layer(program: Program, layer: int) -> dict[str, NDArray[np.float32]]:
    """One layer's tensors but for its routers'."""
    config, one = program.model, np.ones(program.model.hidden_size, np.float32)
    scale = np.float32(attention_scale(config))
    tensors: dict[str, NDArray[np.float32]] = {}
    if config.pre_norm:
        tensors["input_layernorm.weight"] = tensors["post_attention_layernorm.weight"] = one
    if config.ffn_norm_bias:
        norm = "post_attention_layernorm"
        tensors[f"{norm}.weight"], tensors[f"{norm}.bias"] = adjusted(program, "ffn_norm", layer)
    key, value = np.split(dequantised(program, "kv", layer), 2)
    products = {"q": dequantised(program, "q", layer), "k": key, "v": value, "o": dequantised(program, "o", layer)}
    if config.gated:
        products["gate"], products["up"] = np.split(dequantised(program, "gate_up", layer), 2)
    else:
        products["up"] = dequantised(program, "up", layer)
    products["down"] = dequantised(program, "down", layer)
    gains = dict.fromkeys("qk", "self_attn.{}_norm") if config.qk_norm else {}
    gains |= {"o": "attention_post_norm", "down": "mlp_post_norm"} if config.post_norm else {}
    for name, matrix in products.items():
        place = f"{'self_attn' if name in 'qkvo' else 'mlp'}.{name}_proj"
        own = scale if name == "q" else np.float32(1)
        tensors[f"{place}.weight"] = matrix / (own if name not in gains else np.float32(1))
        if name in config.biases:
            before = name in gains  # of the norm, which has an ADJUST of its own
            _, bias = adjusted(program, f"{name}_bias" if before else name, layer)
            tensors[f"{place}.bias"] = bias / (own if not before else np.float32(1))
        if name in gains:
            gain, _ = adjusted(program, name, layer)
            size = config.head_dim if config.qk_norm == "head" and name in "qk" else len(gain)
            tensors[f"{gains[name].format(name)}.weight"] = gain[:size] / own
    return tensors
