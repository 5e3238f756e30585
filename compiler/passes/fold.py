"""Folds RMSNorm gains and the attention scale into the weights behind them."""

from __future__ import annotations

import math

import numpy as np

from compiler.frontend.checkpoint import Checkpoint
from compiler.graph.ops import Graph
from skipopu.model_config import ModelConfig
from skipopu.numerics import soft_cap


def attention_scale(config: ModelConfig) -> float:
    """What queries carry: scores' factor times log2(e), so that probabilities are 2^(score - maximum); with a cap, what it takes."""
    given = config.attention_scale
    power = soft_cap.argument(config.attention_cap) if config.attention_cap else math.log2(math.e)
    return power / math.sqrt(config.head_dim) if given is None else power * given


def fold(graph: Graph, checkpoint: Checkpoint) -> Graph:
    """Every product behind a norm multiplies its columns by the norm's gain; what queries are last multiplied by, by their scale."""
    tensors, config = checkpoint.tensors, checkpoint.config
    gains = {"kv": "input_layernorm", "q": "input_layernorm"}
    gains |= {"gate_up": "post_attention_layernorm", "up": "post_attention_layernorm"}
    scale = np.float32(attention_scale(config))
    for op in graph.ops():
        if (adjust := op.adjust) is not None and adjust.name == "q":
            adjust.biases = [bias * scale for bias in adjust.biases]
            if config.qk_norm:
                adjust.gains = [gain * scale for gain in adjust.gains]
        weights = op.weights
        if weights is None:
            continue
        if op.norm:
            for layer, matrix in enumerate(weights.matrices):
                name = f"model.layers.{layer}.{gains[weights.name]}.weight" if weights.name in gains else "model.norm.weight"
                weights.matrices[layer] = matrix * tensors[name]  # beyond FP32: found by the next pass, which knows the tensors
        if weights.name == "q" and not config.qk_norm:
            weights.matrices = [matrix * scale for matrix in weights.matrices]
    return graph
