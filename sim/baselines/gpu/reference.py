"""The same model as a plain loop over tokens, layers and heads in float32, skipping with ``if``: what the harness is held to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sim.baselines.gpu.masks import SAMPLES, Masks
from sim.baselines.gpu.weights import Weights
from skipopu.masks import ATTENTION, ATTENTION_OUTPUT, FFN, FFN_INNER


def rope(x: Tensor, position: int, theta: float) -> Tensor:
    """Rotary embedding of (heads, head_dim) at ``position``."""
    half = x.shape[1] // 2
    angle = position * theta ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    cos, sin = angle.cos().float(), angle.sin().float()
    return torch.cat([x[:, :half] * cos - x[:, half:] * sin, x[:, half:] * cos + x[:, :half] * sin], 1)


def logits(
    weights: Weights, tokens: list[int], policy: str | None, trace: NDArray[np.bool_] | None, masks: Masks | None = None
) -> Tensor:
    """(tokens, vocabulary) float32 for given tokens; ``policy``, ``trace`` and ``masks`` as in :class:`State`."""
    c = weights.config
    heads, kv_heads, dim = c.num_heads, c.num_kv_heads, c.head_dim

    def norm(h: Tensor) -> Tensor:
        return h / torch.sqrt(h.square().mean() + c.rms_norm_eps)

    def masked(x: Tensor, token: int, layer: int, name: str) -> Tensor:
        return x if masks is None else torch.where(masks.draws[token % SAMPLES, layer, masks.places[name]] != 0, x, 0.0)

    entries: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(c.num_layers)]  # [layer][token]
    result = []
    for t, token in enumerate(tokens):
        h = weights.embedding[token].float()
        for number, layer in enumerate(weights.layers):
            attention, ffn = True, True
            if policy is not None and trace is not None:
                attention, ffn = bool(trace[number, 0, t]), bool(trace[number, 1, t])
            elif policy is not None:
                attention, ffn = (layer.router.float() @ h >= 0).tolist()
                attention |= number == 0
            queries: Sequence[Tensor] = ()
            if attention or policy == "dense":
                qkv = layer.qkv.plain(torch.float32) @ masked(norm(h), t, number, ATTENTION)
                q, k, v = (x.view(-1, dim) for x in qkv.split([heads * dim, kv_heads * dim, kv_heads * dim]))
                entries[number].append((rope(k, t, c.rope_theta), v))
                queries = tuple(rope(q, t, c.rope_theta))
            else:
                entries[number].append(entries[number - 1][t])
            if attention:
                outputs = []
                for head in range(heads):
                    kv = head // (heads // kv_heads)
                    keys = torch.stack([entry[0][kv] for entry in entries[number]])
                    values = torch.stack([entry[1][kv] for entry in entries[number]])
                    outputs.append(((keys @ queries[head]) / math.sqrt(dim)).softmax(0) @ values)
                h = h + layer.o.plain(torch.float32) @ masked(torch.cat(outputs), t, number, ATTENTION_OUTPUT)
            if ffn:
                gate, up = (layer.gate_up.plain(torch.float32) @ masked(norm(h), t, number, FFN)).chunk(2)
                h = h + layer.down.plain(torch.float32) @ masked(functional.silu(gate) * up, t, number, FFN_INNER)
        result.append(weights.head.plain(torch.float32) @ norm(h))
    return torch.stack(result)


def tolerance(weights: Weights) -> float:
    """Largest relative error (2-norm) of a token's logits that rounding explains.

    Relative to the branch that it belongs to, a layer rounds a vector to half precision six times (q; k; v; attention's result;
    silu times up; in a prefill also the normed input and products): 16 at most, each by at most u = 2^-11 (2^-8 for bfloat16), as
    good as independent. Branches add up in float32. sqrt(16 layers) u is what remains; twice that is accepted.
    """
    unit = 2.0**-8 if weights.dtype is torch.bfloat16 else 2.0**-11
    return 2 * math.sqrt(16 * weights.config.num_layers) * unit
