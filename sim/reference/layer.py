"""Parameters of one decoder layer and its routers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skipopu.model_config import ModelConfig


class Router(nn.Module):
    """A SkipGPT router: (d) -> 2 logits, execute and skip; with a hidden layer (d) -> ReLU of ``width`` -> 2."""

    def __init__(self, hidden: int, width: int = 0) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(hidden, width) if width else None
        self.weight_predictor = nn.Linear(width or hidden, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.difference(self.inner(x))

    def inner(self, x: Tensor) -> Tensor:
        """What the last layer reads."""
        return x if self.hidden_layer is None else torch.relu(self.hidden_layer(x))

    def difference(self, inner: Tensor) -> Tensor:
        # The difference in one product, as the hardware evaluates it.
        weight, bias = self.weight_predictor.weight, self.weight_predictor.bias
        return inner @ (weight[0] - weight[1]) + (bias[0] - bias[1])


PROJECTIONS = {name: f"self_attn.{name}_proj" for name in "qkvo"} | {
    name: f"mlp.{name}_proj" for name in ("gate", "up", "down")
}
GAINS = (
    *("input_layernorm", "post_attention_layernorm", "attention_post_norm", "mlp_post_norm"),
    *("self_attn.q_norm", "self_attn.k_norm"),
)


class Layer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, ffn = config.hidden_size, config.intermediate_size
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim

        def gain(size: int, there: bool) -> nn.Parameter | None:
            return nn.Parameter(torch.ones(size)) if there else None

        def linear(name: str, n: int, m: int) -> nn.Linear:
            return nn.Linear(n, m, bias=name in config.biases)

        self.input_layernorm = gain(hidden, config.pre_norm)
        self.post_attention_layernorm = gain(hidden, config.pre_norm)
        self.post_attention_layernorm_bias = nn.Parameter(torch.zeros(hidden)) if config.ffn_norm_bias else None
        self.attention_post_norm = gain(hidden, config.post_norm)
        self.mlp_post_norm = gain(hidden, config.post_norm)
        whole = config.qk_norm == "whole"
        self.q_norm = gain(queries if whole else config.head_dim, config.qk_norm != "")
        self.k_norm = gain(keys if whole else config.head_dim, config.qk_norm != "")
        self.q_proj = linear("q", hidden, queries)
        self.k_proj = linear("k", hidden, keys)
        self.v_proj = linear("v", hidden, keys)
        self.o_proj = linear("o", queries, hidden)
        if config.gated:
            self.gate_proj = linear("gate", hidden, ffn)
        self.up_proj = linear("up", hidden, ffn)
        self.down_proj = linear("down", ffn, hidden)
        self.router_attention = Router(hidden)
        self.router_mlp = Router(hidden)
