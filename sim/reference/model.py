"""PyTorch reference of a decoder with per-token dynamic skipping, in the general form of :class:`ModelConfig`.

Routing (per layer l, token t): both routers read h[l][t], the residual stream entering the layer, before any norm.
``logits = W h + b`` with two classes, 0 = execute and 1 = skip; a module runs when ``logits[0] >= logits[1]``.
Layer 0's attention always runs under ``reuse``. See :mod:`sim.reference.engine` for running a compiled program's weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sim.reference.functions import ACTIVATIONS, apply_rope, attention, rms_norm, rope_tables, soft_cap
from sim.reference.layer import Layer
from skipopu.errors import CheckpointError
from skipopu.model_config import ModelConfig
from skipopu.policy import KvPolicy, Module

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
        channels: as of :class:`sim.result.Result`, where who made it knows.
    """

    logits: Tensor
    gates: Tensor
    differences: Tensor
    channels: tuple[int, int] = (0, 0)


@dataclass
class Stream:
    """Tokens between two layers.

    Attributes:
        h: (batch, tokens, hidden), the residual.
        tables: cos and sin of every rotary table.
        k, v: what queries of the layer before saw, (batch, heads, tokens, head_dim).
        held: by FP16, every key and value.
    """

    h: Tensor
    tables: list[tuple[Tensor, Tensor]]
    k: Tensor | None = None
    v: Tensor | None = None
    held: bool = True


def execute_when_positive(difference: Tensor, layer: int, module: int) -> Tensor:
    """The machine's rule: a tie executes."""
    del layer, module
    return (difference >= 0).to(difference.dtype)


class SkipLlama(nn.Module):
    """A decoder with routers. Dtype and device follow the parameters.

    ``disturb``, when set, maps (name, tensor) to a tensor and is called on the input of every product and on capped scores; the error
    analysis uses it to inject rounding errors. ``round_kv`` rounds K (after RoPE) and V to FP16, as the machine stores them. ``see``,
    when set, is shown what each layer's routers read before their gates are decided. ``mask``, when set, is asked with the name, the input
    and the scale (None without norm) of every product which of its channels count, bool as the input; None for all. ``thresholds``
    are those of an image, (layers, channels) by input.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = nn.Parameter(torch.ones(config.hidden_size))
        self.norm_bias = nn.Parameter(torch.zeros(config.hidden_size)) if config.final_bias else None
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.round_kv = False
        self.disturb: Callable[[str, Tensor], Tensor] | None = None
        self.quantise: Callable[[Tensor, Tensor], Tensor] | None = None
        self.see: Callable[[int, Tensor], None] | None = None
        self.mask: Callable[[str, Tensor, Tensor | None], Tensor | None] | None = None
        self.thresholds: dict[str, Tensor] = {}

    def _product(self, name: str, x: Tensor, linear: nn.Linear, gain: Tensor | None = None) -> Tensor:
        """x (..., n) times weight (m, n), behind an RMSNorm when ``gain`` is given; the gain is part of the weight."""
        # Squares beyond FP32 would make the scale zero, and nobody would see it.
        eps, weight = self.config.rms_norm_eps, linear.weight
        scale = torch.rsqrt(x.double().square().mean(-1, keepdim=True) + eps).to(x.dtype) if gain is not None else None
        if self.quantise is not None:
            weight = self.quantise(weight, gain if gain is not None else torch.ones_like(weight[0]))
        elif gain is not None:
            weight = weight * gain
        kept = self.mask(name, x, scale) if self.mask is not None else None
        if self.disturb is not None:
            x = self.disturb(name, x)
        x = x if kept is None else torch.where(kept, x, 0)
        y = x @ weight.T
        y = y if scale is None else y * scale
        return y if linear.bias is None else y + linear.bias

    def _norm(self, x: Tensor, gain: Tensor | None, padded: float = 1.0) -> Tensor:
        return x if gain is None else rms_norm(x, gain, self.config.rms_norm_eps, padded)

    def _heads(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """(batch, tokens, heads * head_dim) to (batch, heads, tokens, head_dim), normalised over what the gain is of."""
        dim = self.config.head_dim
        padded = dim / (self.config.counted_head_dim or dim)
        x = self._norm(x, gain, padded) if self.config.qk_norm == "whole" else x
        x = x.view(*x.shape[:2], -1, dim).transpose(1, 2)
        return self._norm(x, gain, padded) if self.config.qk_norm == "head" else x

    def _feed_forward(self, index: int, layer: Layer, h: Tensor) -> Tensor:
        activation, gain = ACTIVATIONS[self.config.hidden_act], layer.post_attention_layernorm
        if layer.post_attention_layernorm_bias is not None:
            h, gain = self._norm(h, gain) + layer.post_attention_layernorm_bias, None
        up = self._product(f"layers.{index}.up", h, layer.up_proj, gain)
        if self.config.gated:
            inner = activation(self._product(f"layers.{index}.gate", h, layer.gate_proj, gain)) * up
        else:
            inner = activation(up)
        return self._norm(self._product(f"layers.{index}.down", inner, layer.down_proj), layer.mlp_post_norm)

    def _differences(self, index: int, layer: Layer, h: Tensor) -> list[Tensor]:
        """Of the routers of attention and of the feed-forward network, (batch, tokens) each."""
        routers = (layer.router_attention, layer.router_mlp)
        disturb = self.disturb if self.disturb is not None else lambda name, x: x
        read = [disturb(f"layers.{index}.router", h) for _ in routers]
        if self.see is not None:
            self.see(index, read[-1])
        inner = [router.inner(x) for router, x in zip(routers, read, strict=True)]
        if layer.router_attention.hidden_layer is not None:  # aligned side by side
            inner = disturb(f"layers.{index}.router_hidden", torch.cat(inner, -1)).chunk(2, -1)
        return [router.difference(x) for router, x in zip(routers, inner, strict=True)]

    def begin(self, tokens: Tensor) -> Stream:
        """(batch, tokens) ids on their way into the first layer.

        Raises:
            CheckpointError: more tokens than the model has positions, beyond which its rotary tables may be others.
        """
        count = tokens.shape[1]
        if count > self.config.max_positions:
            raise CheckpointError(f"{count} tokens; accepted: up to max_position_embeddings, {self.config.max_positions}")
        h = self.embed_tokens(tokens)
        return Stream(h, [(cos.to(h), sin.to(h)) for cos, sin in rope_tables(self.config, count)])

    def advance(
        self,
        index: int,
        stream: Stream,
        kv: KvPolicy = KvPolicy.REUSE,
        routing: Tensor | None = None,
        rule: GateRule = execute_when_positive,
        dense: bool = False,
    ) -> tuple[Stream, list[Tensor], list[Tensor]]:
        """What leaves layer ``index``, and its two modules' gates and differences, each (batch, tokens); see :meth:`forward`."""
        config, h = self.config, stream.h
        batch, count = h.shape[:2]
        scale = 1 / math.sqrt(config.head_dim) if config.attention_scale is None else config.attention_scale
        layer = self.layers[index]
        assert isinstance(layer, Layer)
        gates: list[Tensor] = []
        differences: list[Tensor] = []
        for module, difference in zip(Module, self._differences(index, layer, h), strict=True):
            differences.append(difference)
            if dense or kv.forced(index, module):
                gates.append(h.new_ones(batch, count))
            elif routing is not None:
                gates.append(routing[:, index, module].to(h.dtype))
            else:
                gates.append(rule(difference, index, module))
        attend, feed = gates
        # Attention
        gain, repeat = layer.input_layernorm, config.num_heads // config.num_kv_heads
        q, k, v = (
            self._product(f"layers.{index}.{name}", h, projection, gain)
            for name, projection in (("q", layer.q_proj), ("k", layer.k_proj), ("v", layer.v_proj))
        )
        cos, sin = stream.tables[config.rope_of_layer[index] if config.rope_of_layer else 0]
        q, k = (apply_rope(self._heads(x, g), cos, sin) for x, g in ((q, layer.q_norm), (k, layer.k_norm)))
        v = v.view(batch, count, -1, config.head_dim).transpose(1, 2)
        held = stream.held
        if self.round_kv:
            k, v = k.half().to(h.dtype), v.half().to(h.dtype)
            held = held and bool(k.isfinite().all() and v.isfinite().all())
        executed = attend[:, None, :, None]
        k, v = k_eff, v_eff = kv.visible(executed, k, stream.k), kv.visible(executed, v, stream.v)
        if self.disturb is not None:
            q, k, v = (self.disturb(f"layers.{index}.{n}", x) for n, x in (("query", q), ("key", k), ("value", v)))
        window = config.windows[index] if config.windows else 0
        mixed = attention(
            q,
            k.repeat_interleave(repeat, 1),
            v.repeat_interleave(repeat, 1),
            scale,
            window,
            config.attention_cap,
            self.disturb and functools.partial(self.disturb, f"layers.{index}.score"),
        )
        mixed = mixed.transpose(1, 2).reshape(batch, count, -1)
        mixed = self._norm(self._product(f"layers.{index}.o", mixed, layer.o_proj), layer.attention_post_norm)
        read = h
        h = h + attend[..., None] * mixed
        h = h + feed[..., None] * self._feed_forward(index, layer, read if config.parallel else h)
        return Stream(h, stream.tables, k_eff, v_eff, held), gates, differences

    def finish(self, stream: Stream) -> Tensor:
        """(batch, tokens, vocab) logits of what left the last layer."""
        h = stream.h
        if self.norm_bias is None:
            logits = self._product("lm_head", h, self.lm_head, self.norm)
        else:
            logits = self._product("lm_head", self._norm(h, self.norm) + self.norm_bias, self.lm_head)
        logits = soft_cap(logits, self.config.logit_cap)
        return logits if stream.held else logits + torch.nan  # attention may hide infinite keys, and NaN too

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

        Raises:
            CheckpointError: as of :meth:`begin`.
        """
        stream = self.begin(tokens)
        gates: list[Tensor] = []
        differences: list[Tensor] = []
        for index in range(len(self.layers)):
            stream, own_gates, own_differences = self.advance(index, stream, kv, routing, rule, dense)
            gates += own_gates
            differences += own_differences
        logits = self.finish(stream)
        shape = (len(tokens), self.config.num_layers, 2, tokens.shape[1])
        return Output(logits, torch.stack(gates, 1).view(shape), torch.stack(differences, 1).view(shape))
