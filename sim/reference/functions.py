"""What a decoder is made of, beside its products."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from skipopu.model_config import ModelConfig

# Hugging Face's names, as in config.json.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))),
    "gelu_fast": lambda x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "leaky_relu": F.leaky_relu,
}


def rms_norm(x: Tensor, gain: Tensor, eps: float, padded: float = 1.0) -> Tensor:
    """``padded``: how many times as long x is as without its zeros, which the mean leaves out."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) * padded + eps) * gain


def rope_tables(config: ModelConfig, tokens: int) -> list[tuple[Tensor, Tensor]]:
    """cos and sin of each table of the model, each (tokens, rotated pairs of a head) float64."""
    tables = config.rope_tables
    position = torch.arange(tokens, dtype=torch.float64)[:, None]
    angles = [position * torch.tensor(table.frequencies, dtype=torch.float64) for table in tables]
    return [(angle.cos() * table.factor, angle.sin() * table.factor) for angle, table in zip(angles, tables, strict=True)]


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates (batch, heads, tokens, head_dim) by the half-split convention; elements behind the tables' pairs stay."""
    pairs = cos.shape[-1]
    low, high, rest = x.split((pairs, pairs, x.shape[-1] - 2 * pairs), -1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin, rest), -1)


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """cap * tanh(x / cap), or x where there is no cap."""
    return cap * torch.tanh(x / cap) if cap else x


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    window: int = 0,
    cap: float = 0.0,
    disturb: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Causal attention of (batch, heads, tokens, head_dim).

    ``window``: the latest tokens that a query sees, 0 for all; ``disturb``: changes capped scores.
    """
    if not window and not cap:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    hidden = q.new_ones(q.shape[-2], q.shape[-2], dtype=torch.bool)
    seen = hidden.tril() & ~hidden.tril(-window) if window else hidden.tril()
    scores = soft_cap(q @ k.transpose(-1, -2) * scale, cap)
    if cap and disturb is not None:
        scores = disturb(scores)
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v
