"""Folds RMSNorm gains and the attention scale into the weights behind them."""

from __future__ import annotations

import math

import numpy as np

from compiler.frontend.checkpoint import Checkpoint
from compiler.graph.ops import Graph


def attention_scale(head_dim: int) -> float:
    """Queries carry log2(e) / sqrt(head_dim), so that probabilities are 2^(score - maximum)."""
    return math.log2(math.e) / math.sqrt(head_dim)


def fold(graph: Graph, checkpoint: Checkpoint) -> Graph:
    """Every product behind a norm multiplies its columns by the norm's gain; q_proj also by the attention scale."""
    tensors, config = checkpoint.tensors, checkpoint.config
    gains = {"kv": "input_layernorm", "q": "input_layernorm", "gate_up": "post_attention_layernorm"}
    for op in graph.ops():
        weights = op.weights
        if weights is None:
            continue
        if weights.name in gains:
            for layer, matrix in enumerate(weights.matrices):
                gain = tensors[f"model.layers.{layer}.{gains[weights.name]}.weight"]
                weights.matrices[layer] = matrix * gain  # beyond FP32 it is found by the next pass, which knows the tensors
        elif weights.name == "head":
            weights.matrices = [weights.matrices[0] * tensors["model.norm.weight"]]
        if weights.name == "q":
            scale = np.float32(attention_scale(config.head_dim))
            weights.matrices = [matrix * scale for matrix in weights.matrices]
    return graph
