"""PyTorch reference of a Llama decoder with per-token dynamic skipping.

Routing (per layer l, token t): both routers read h[l][t], the residual stream entering the layer, before any norm.
``logits = W h + b`` with two classes, 0 = execute and 1 = skip; a module runs when ``logits[0] >= logits[1]``.
Layer 0's attention always runs under ``reuse``. See :mod:`sim.reference.engine` for running a compiled program's weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipopu.model_config import ModelConfig
from skipopu.policy import KvPolicy, Module

# Hugging Face's names, as in config.json.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "leaky_relu": F.leaky_relu,
}

# Decides one module's gate from its router difference: (difference (batch, tokens), layer, module) -> (batch, tokens).
# Values are 0 or 1; training passes a differentiable one.
GateRule = Callable[[Tensor, int, int], Tensor]


@dataclass
class Output:
    """What a forward pass produced.

    Attributes:
        logits: (batch, tokens, vocab).
        gates: (batch, layers, 2, tokens), 1 = executed.
        differences: (batch, layers, 2, tokens), router logit 0 minus logit 1 (zeros where nothing was routed).
    """

    logits: Tensor
    gates: Tensor
    differences: Tensor


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain


def rope_tables(config: ModelConfig, tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """cos and sin, each (tokens, head_dim / 2), computed in float64 (Hugging Face's frequencies)."""
    half = config.head_dim // 2
    frequency = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(tokens, dtype=torch.float64)[:, None] * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates (batch, heads, tokens, head_dim) by the half-split convention."""
    low, high = x.chunk(2, -1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


class Router(nn.Module):
    """A linear SkipGPT router: (d) -> 2 logits, execute and skip."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight_predictor = nn.Linear(hidden, 2)

    def forward(self, x: Tensor) -> Tensor:
        # The difference in one product, as the hardware evaluates it.
        weight, bias = self.weight_predictor.weight, self.weight_predictor.bias
        return x @ (weight[0] - weight[1]) + (bias[0] - bias[1])


class Layer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, ffn = config.hidden_size, config.intermediate_size
        self.input_layernorm = nn.Parameter(torch.ones(hidden))
        self.post_attention_layernorm = nn.Parameter(torch.ones(hidden))
        self.q_proj = nn.Linear(hidden, config.num_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, config.num_kv_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, config.num_kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_heads * config.head_dim, hidden, bias=False)
        self.gate_proj = nn.Linear(hidden, ffn, bias=False)
        self.up_proj = nn.Linear(hidden, ffn, bias=False)
        self.down_proj = nn.Linear(ffn, hidden, bias=False)
        self.router_attention = Router(hidden)
        self.router_mlp = Router(hidden)


def execute_when_positive(difference: Tensor, layer: int, module: int) -> Tensor:
    """The machine's rule: a tie executes."""
    del layer, module
    return (difference >= 0).to(difference.dtype)


class SkipLlama(nn.Module):
    """Llama with routers. Dtype and device follow the parameters.

    ``disturb``, when set, maps (name, tensor) to a tensor and is called on the input of every product; the error analysis
    uses it to inject rounding errors. ``round_kv`` rounds K (after RoPE) and V to FP16, as the machine stores them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = nn.Parameter(torch.ones(config.hidden_size))
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.round_kv = False
        self.disturb: Callable[[str, Tensor], Tensor] | None = None
        self.quantise: Callable[[Tensor, Tensor], Tensor] | None = None

    def _product(self, name: str, x: Tensor, weight: Tensor, gain: Tensor | None = None, eps: float = 0.0) -> Tensor:
        """x (..., n) times weight (m, n), behind an RMSNorm when ``gain`` is given; the gain is part of the weight."""
        # Squares beyond FP32 would make the scale zero, and nobody would see it.
        scale = torch.rsqrt(x.double().square().mean(-1, keepdim=True) + eps).to(x.dtype) if gain is not None else None
        if self.quantise is not None:
            weight = self.quantise(weight, gain if gain is not None else torch.ones_like(weight[0]))
        elif gain is not None:
            weight = weight * gain
        if self.disturb is not None:
            x = self.disturb(name, x)
        y = x @ weight.T
        return y if scale is None else y * scale

    def forward(
        self,
        tokens: Tensor,
        kv: KvPolicy = KvPolicy.REUSE,
        routing: Tensor | None = None,
        rule: GateRule = execute_when_positive,
        dense: bool = False,
    ) -> Output:
        """Teacher-forced pass over (batch, tokens) ids.

        ``routing`` (batch, layers, 2, tokens) replays given bits; ``dense`` executes everything. Otherwise the routers
        decide through ``rule``.
        """
        config = self.config
        batch, count = tokens.shape
        h = self.embed_tokens(tokens)
        cos, sin = (table.to(h) for table in rope_tables(config, count))
        gates: list[Tensor] = []
        differences: list[Tensor] = []
        held = True  # by FP16, every key and value
        k_eff: Tensor | None = None
        v_eff: Tensor | None = None
        ones = h.new_ones(batch, count)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            both: list[Tensor] = []
            for module, router in ((Module.ATTENTION, layer.router_attention), (Module.FFN, layer.router_mlp)):
                routed_input = self.disturb(f"layers.{index}.router", h) if self.disturb is not None else h
                difference = router(routed_input)
                differences.append(difference)
                if dense or kv.forced(index, module):
                    both.append(ones)
                elif routing is not None:
                    both.append(routing[:, index, module].to(h.dtype))
                else:
                    both.append(rule(difference, index, module))
            gates += both
            attend, feed = both
            # Attention
            heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
            gain, eps = layer.input_layernorm, config.rms_norm_eps
            q, k, v = (
                self._product(f"layers.{index}.{name}", h, projection.weight, gain, eps)
                .view(batch, count, -1, dim)
                .transpose(1, 2)
                for name, projection in (("q", layer.q_proj), ("k", layer.k_proj), ("v", layer.v_proj))
            )
            q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
            if self.round_kv:
                k, v = k.half().to(h.dtype), v.half().to(h.dtype)
                held = held and bool(k.isfinite().all() and v.isfinite().all())
            executed = attend[:, None, :, None]
            k, v = k_eff, v_eff = kv.visible(executed, k, k_eff), kv.visible(executed, v, v_eff)
            if self.disturb is not None:
                q, k, v = (self.disturb(f"layers.{index}.{n}", x) for n, x in (("query", q), ("key", k), ("value", v)))
            repeat = heads // kv_heads
            mixed = F.scaled_dot_product_attention(
                q,
                k.repeat_interleave(repeat, 1),
                v.repeat_interleave(repeat, 1),
                is_causal=True,
                scale=1 / math.sqrt(dim),
            )
            mixed = mixed.transpose(1, 2).reshape(batch, count, heads * dim)
            h = h + attend[..., None] * self._product(f"layers.{index}.o", mixed, layer.o_proj.weight)
            # Feed-forward
            gain = layer.post_attention_layernorm
            gate = self._product(f"layers.{index}.gate", h, layer.gate_proj.weight, gain, eps)
            up = self._product(f"layers.{index}.up", h, layer.up_proj.weight, gain, eps)
            down = self._product(f"layers.{index}.down", ACTIVATIONS[config.hidden_act](gate) * up, layer.down_proj.weight)
            h = h + feed[..., None] * down
        logits = self._product("lm_head", h, self.lm_head.weight, self.norm, config.rms_norm_eps)
        if not held:
            logits = logits + torch.nan  # attention may hide infinite keys, and NaN too
        shape = (batch, config.num_layers, 2, count)
        return Output(logits, torch.stack(gates, 1).view(shape), torch.stack(differences, 1).view(shape))


def hf_state_dict(model: SkipLlama) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(base tensors, router tensors) under Hugging Face's and SkipGPT's names."""
    base: dict[str, Tensor] = {
        "model.embed_tokens.weight": model.embed_tokens.weight,
        "model.norm.weight": model.norm,
    }
    if not model.config.tie_word_embeddings:
        base["lm_head.weight"] = model.lm_head.weight
    routers: dict[str, Tensor] = {}
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        prefix = f"model.layers.{index}."
        for name, parent in (("q", "self_attn"), ("k", "self_attn"), ("v", "self_attn"), ("o", "self_attn")):
            base[f"{prefix}{parent}.{name}_proj.weight"] = getattr(layer, f"{name}_proj").weight
        for name in ("gate", "up", "down"):
            base[f"{prefix}mlp.{name}_proj.weight"] = getattr(layer, f"{name}_proj").weight
        base[f"{prefix}input_layernorm.weight"] = layer.input_layernorm
        base[f"{prefix}post_attention_layernorm.weight"] = layer.post_attention_layernorm
        for name in ("attention", "mlp"):
            router = getattr(layer, f"router_{name}").weight_predictor
            routers[f"{prefix}router_{name}.weight_predictor.weight"] = router.weight
            routers[f"{prefix}router_{name}.weight_predictor.bias"] = router.bias
    return (
        {name: tensor.detach().contiguous() for name, tensor in base.items()},
        {name: tensor.detach().contiguous() for name, tensor in routers.items()},
    )


def load_hf_state_dict(model: SkipLlama, base: dict[str, Tensor], routers: dict[str, Tensor]) -> SkipLlama:
    """Fills ``model`` from tensors under Hugging Face's and SkipGPT's names; missing routers always execute."""
    own_base, own_routers = hf_state_dict(model)
    with torch.no_grad():
        for own, given in ((own_base, base), (own_routers, routers)):
            for name, tensor in own.items():
                if name in given:
                    tensor.copy_(given[name].to(tensor.dtype))
                elif own is own_routers:
                    tensor.zero_()
                else:
                    raise KeyError(name)
    return model
