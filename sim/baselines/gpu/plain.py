"""The steps of decoding in PyTorch's own operations: no Triton needed, no host synchronisation, skipped modules masked."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sim.baselines.gpu.state import State
from sim.baselines.gpu.weights import Matrix, Weights
from skipopu.masks import ATTENTION, ATTENTION_OUTPUT, FFN, FFN_INNER


def embed(w: Weights, s: State) -> None:
    s.h.copy_(w.embedding.index_select(0, s.tokens.index_select(0, s.position))[0])


def route(w: Weights, s: State, layer: int) -> None:
    """Both decisions of a layer, and where the token's entry lies."""
    s.router[layer] = w.layers[layer].router.float() @ s.h
    if s.trace is None:
        execute = (s.router[layer] >= 0).int()
        if layer == 0:
            execute[0] = 1
    else:
        execute = s.trace[layer].index_select(1, s.position)[:, 0].int()
    s.executed[layer] = execute
    s.taken[layer] += execute
    if s.policy == "reuse":
        kept = s.place[max(layer - 1, 0)].index_select(0, s.position)
        s.place[layer].index_copy_(0, s.position, torch.where(execute[:1] != 0, s.entries, kept))
        s.entries += execute[0]


def qkv(w: Weights, s: State, layer: int) -> None:
    s.qkv.copy_(_product(w.layers[layer].qkv, _normed(w, s), s.active(layer, ATTENTION)))


def attend(w: Weights, s: State, layer: int) -> None:
    """Writes the token's entry and attends to all valid ones up to it."""
    c = w.config
    kv_heads, group, dim = c.num_kv_heads, c.queries_per_kv_head, c.head_dim
    q, k, v = s.qkv.float().split([c.num_heads * dim, kv_heads * dim, kv_heads * dim])
    cos, sin = s.rope.index_select(0, s.position)[0]
    place = s.place[layer].index_select(0, s.position).long()
    write = (s.executed[layer, :1] != 0) | (s.policy == "dense")
    for pool, new in ((s.keys, rotated(k.view(kv_heads, dim), cos, sin)), (s.values, v.view(kv_heads, dim))):
        pool.index_copy_(0, place, torch.where(write, new.to(pool.dtype)[None], pool.index_select(0, place)))
    keys, values = (pool.index_select(0, s.place[layer].long()).float() for pool in (s.keys, s.values))
    scores = torch.einsum("kgd,tkd->kgt", rotated(q.view(kv_heads, group, dim), cos, sin) * dim**-0.5, keys)
    later = torch.arange(len(keys), device=keys.device) > s.position
    weights = scores.masked_fill(later, -torch.inf).softmax(2)
    s.mixed.copy_(torch.einsum("kgt,tkd->kgd", weights, values).reshape(-1))


def o(w: Weights, s: State, layer: int) -> None:
    product = _product(w.layers[layer].o, s.mixed.float(), s.active(layer, ATTENTION_OUTPUT))
    s.h += torch.where(s.executed[layer, 0] != 0, product, 0.0)


def gate_up(w: Weights, s: State, layer: int) -> None:
    gate, up = _product(w.layers[layer].gate_up, _normed(w, s), s.active(layer, FFN)).chunk(2)
    s.fed.copy_(functional.silu(gate) * up)


def down(w: Weights, s: State, layer: int) -> None:
    product = _product(w.layers[layer].down, s.fed.float(), s.active(layer, FFN_INNER))
    s.h += torch.where(s.executed[layer, 1] != 0, product, 0.0)


def head(w: Weights, s: State) -> None:
    s.logits.copy_(_product(w.head, _normed(w, s)))


def _normed(w: Weights, s: State) -> Tensor:
    return s.h * (s.h.square().mean() + w.config.rms_norm_eps).rsqrt()


def _product(matrix: Matrix, x: Tensor, active: Tensor | None = None) -> Tensor:
    return matrix.plain(torch.float32) @ (x if active is None else x * active)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (..., head_dim), halves paired."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
