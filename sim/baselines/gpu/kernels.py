"""The steps of decoding as Triton kernels: dequantising matrix-vector products, attention split over the context.

Every kernel reads on the device whether its module is executed, and does nothing otherwise: a skipped module costs its kernels'
launches within a CUDA graph, no memory traffic and no host synchronisation.
"""

from __future__ import annotations

import functools

import torch
import triton  # pyright: ignore[reportMissingImports] -- comes with PyTorch's CUDA builds only
from triton import language as tl  # pyright: ignore[reportMissingImports]

from sim.baselines.gpu import masked
from sim.baselines.gpu.ends import finish, inverse_rms, jit
from sim.baselines.gpu.state import State
from sim.baselines.gpu.weights import GROUP, HALF, ZERO, Matrix, Weights
from skipopu.masks import ATTENTION, ATTENTION_OUTPUT, FFN, FFN_INNER

NEVER = 1 << 30
SPLITS = 8  # of the context; with the KV heads they fill the device
TOKENS = 32  # entries that a program looks at together
EMBED_BLOCK = 1024


@jit
def _embed(h, embedding, tokens, position, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(tokens + tl.load(position))
    tl.store(h + i, tl.load(embedding + token * HIDDEN + i, mask=i < HIDDEN).to(tl.float32), mask=i < HIDDEN)


@jit
def _route(
    h, weight, sums, trace, executed, taken, place, entries, position, layer, CONTEXT, HIDDEN: tl.constexpr, BLOCK: tl.constexpr,
    TRACED: tl.constexpr, REUSE: tl.constexpr,
):  # fmt: skip
    pos = tl.load(position)
    a = tl.zeros([BLOCK], tl.float32)
    b = tl.zeros([BLOCK], tl.float32)
    for start in range(0, HIDDEN, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(h + i, mask=i < HIDDEN, other=0.0)
        a += x * tl.load(weight + i, mask=i < HIDDEN, other=0.0).to(tl.float32)
        b += x * tl.load(weight + HIDDEN + i, mask=i < HIDDEN, other=0.0).to(tl.float32)
    attention, ffn = tl.sum(a, 0), tl.sum(b, 0)
    tl.store(sums + 2 * layer, attention)
    tl.store(sums + 2 * layer + 1, ffn)
    if TRACED:
        first = tl.load(trace + (2 * layer) * CONTEXT + pos).to(tl.int32)
        second = tl.load(trace + (2 * layer + 1) * CONTEXT + pos).to(tl.int32)
    else:
        first = ((attention >= 0) | (layer == 0)).to(tl.int32)  # pyright: ignore[reportOperatorIssue] -- an array
        second = (ffn >= 0).to(tl.int32)  # pyright: ignore[reportOperatorIssue]
    tl.store(executed + 2 * layer, first)
    tl.store(executed + 2 * layer + 1, second)
    tl.store(taken + 2 * layer, tl.load(taken + 2 * layer) + first)
    tl.store(taken + 2 * layer + 1, tl.load(taken + 2 * layer + 1) + second)
    if REUSE:
        before = tl.load(place + tl.maximum(layer - 1, 0) * CONTEXT + pos)
        allocated = tl.load(entries)
        tl.store(place + layer * CONTEXT + pos, tl.where(first != 0, allocated, before))
        tl.store(entries, allocated + first)


@jit
def _dot(x, scale, data, scales, row, ROWS, INPUTS: tl.constexpr, BLOCK: tl.constexpr, GROUPS: tl.constexpr, INT4: tl.constexpr,
         GROUP: tl.constexpr, HALF: tl.constexpr, ZERO: tl.constexpr):  # fmt: skip
    """Products of BLOCK rows with the vector ``x`` times ``scale``, GROUPS groups of inputs at a time."""
    g = tl.arange(0, GROUPS)
    inside = (row < ROWS)[:, None, None]
    if INT4:
        j = tl.arange(0, HALF)
        total = tl.zeros([BLOCK, GROUPS, HALF], tl.float32)
        for start in range(0, INPUTS // GROUP, GROUPS):
            valid = (start + g < INPUTS // GROUP)[None, :, None]
            at = (start + g)[None, :, None]
            codes = tl.load(data + row[:, None, None].to(tl.int64) * (INPUTS // 2) + at * HALF + j[None, None, :],
                            mask=inside & valid, other=0).to(tl.int32)  # fmt: skip
            s = tl.load(scales + row[:, None, None].to(tl.int64) * (INPUTS // GROUP) + at, mask=inside & valid, other=0.0)
            low = tl.load(x + at * GROUP + j[None, None, :], mask=valid, other=0.0).to(tl.float32)
            high = tl.load(x + at * GROUP + HALF + j[None, None, :], mask=valid, other=0.0).to(tl.float32)
            part = ((codes & 15) - ZERO).to(tl.float32) * low + ((codes >> 4) - ZERO).to(tl.float32) * high
            total += part * s.to(tl.float32)
    else:
        j = tl.arange(0, GROUP)
        total = tl.zeros([BLOCK, GROUPS, GROUP], tl.float32)
        for start in range(0, INPUTS // GROUP, GROUPS):
            valid = (start + g < INPUTS // GROUP)[None, :, None]
            i = (start + g)[None, :, None] * GROUP + j[None, None, :]
            values = tl.load(data + row[:, None, None].to(tl.int64) * INPUTS + i, mask=inside & valid, other=0.0)
            total += values.to(tl.float32) * tl.load(x + i, mask=valid, other=0.0).to(tl.float32)
    return tl.sum(tl.sum(total, 2), 1) * scale


@jit
def _product(
    y, x, data, scales, flag, eps, always, ROWS: tl.constexpr, INPUTS: tl.constexpr, BLOCK: tl.constexpr, GROUPS: tl.constexpr,
    NORM_BLOCK: tl.constexpr, INT4: tl.constexpr, NORM: tl.constexpr, FORM: tl.constexpr, GROUP: tl.constexpr, HALF: tl.constexpr,
    ZERO: tl.constexpr,
):  # fmt: skip
    """FORM as in ``finish``; up's rows follow gate's. Rows from ``always`` on are never skipped."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if (tl.load(flag) != 0) | (tl.program_id(0) * BLOCK + BLOCK > always):
        scale = 1.0
        if NORM:
            scale = inverse_rms(x, eps, INPUTS, NORM_BLOCK)
        result = _dot(x, scale, data, scales, row, ROWS, INPUTS, BLOCK, GROUPS, INT4, GROUP, HALF, ZERO)
        up = result
        if FORM == 2:
            up = _dot(x, scale, data, scales, row + ROWS, 2 * ROWS, INPUTS, BLOCK, GROUPS, INT4, GROUP, HALF, ZERO)
        finish(y, row, result, up, ROWS, FORM)


@jit
def _attend(
    sums, tops, totals, qkv, rope, keys, values, place, position, flag, softmax_scale, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
    D: tl.constexpr, QUERIES: tl.constexpr, PADDED: tl.constexpr, SPLITS: tl.constexpr, TOKENS: tl.constexpr, WRITE: tl.constexpr,
):  # fmt: skip
    """One KV head's queries over a part of the context; the first part also takes and stores the token's own entry."""
    HALVED: tl.constexpr = D // 2
    kv, split = tl.program_id(0), tl.program_id(1)
    pos = tl.load(position)
    d = tl.arange(0, HALVED)
    cos, sin = tl.load(rope + pos * D + d), tl.load(rope + pos * D + HALVED + d)
    run = tl.load(flag) != 0
    own = qkv + (HEADS + kv) * D
    k1, k2 = tl.load(own + d).to(tl.float32), tl.load(own + HALVED + d).to(tl.float32)
    dtype = keys.dtype.element_ty
    n1, n2 = (k1 * cos - k2 * sin).to(dtype), (k2 * cos + k1 * sin).to(dtype)
    own += KV_HEADS * D
    v1, v2 = tl.load(own + d), tl.load(own + HALVED + d)
    if (split == 0) & (run | WRITE):
        at = (tl.load(place + pos).to(tl.int64) * KV_HEADS + kv) * D
        tl.store(keys + at + d, n1)
        tl.store(keys + at + HALVED + d, n2)
        tl.store(values + at + d, v1)
        tl.store(values + at + HALVED + d, v2)
    if run:
        g = tl.arange(0, PADDED)
        head = kv * QUERIES + g
        real = (g < QUERIES)[:, None]
        q = qkv + head[:, None] * D + d[None, :]
        r1, r2 = tl.load(q, mask=real, other=0.0).to(tl.float32), tl.load(q + HALVED, mask=real, other=0.0).to(tl.float32)
        q1 = (r1 * cos[None, :] - r2 * sin[None, :]) * softmax_scale
        q2 = (r2 * cos[None, :] + r1 * sin[None, :]) * softmax_scale
        first = split == 0
        mine = tl.sum(q1 * n1.to(tl.float32)[None, :] + q2 * n2.to(tl.float32)[None, :], 1)
        top = tl.where(first, mine, float("-inf"))
        total = tl.where(first, 1.0, 0.0) + tl.zeros([PADDED], tl.float32)
        o1 = tl.where(first, v1.to(tl.float32)[None, :], 0.0) + tl.zeros([PADDED, HALVED], tl.float32)
        o2 = tl.where(first, v2.to(tl.float32)[None, :], 0.0) + tl.zeros([PADDED, HALVED], tl.float32)
        part = (pos + SPLITS - 1) // SPLITS
        end = tl.minimum((split + 1) * part, pos)
        for start in range(split * part, end, TOKENS):
            t = start + tl.arange(0, TOKENS)
            there = t < end
            at = (tl.load(place + t, mask=there, other=0).to(tl.int64) * KV_HEADS + kv) * D
            at = at[:, None] + d[None, :]
            e1 = tl.load(keys + at, mask=there[:, None], other=0.0).to(tl.float32)
            e2 = tl.load(keys + at + HALVED, mask=there[:, None], other=0.0).to(tl.float32)
            score = tl.sum(q1[:, None, :] * e1[None, :, :] + q2[:, None, :] * e2[None, :, :], 2)
            score = tl.where(there[None, :], score, float("-inf"))
            higher = tl.maximum(top, tl.max(score, 1))
            shrink = tl.where(top == float("-inf"), 0.0, tl.exp(top - higher))
            weight = tl.exp(score - higher[:, None])
            f1 = tl.load(values + at, mask=there[:, None], other=0.0).to(tl.float32)
            f2 = tl.load(values + at + HALVED, mask=there[:, None], other=0.0).to(tl.float32)
            o1 = o1 * shrink[:, None] + tl.sum(weight[:, :, None] * f1[None, :, :], 1)
            o2 = o2 * shrink[:, None] + tl.sum(weight[:, :, None] * f2[None, :, :], 1)
            total = total * shrink + tl.sum(weight, 1)
            top = higher
        to = (head * SPLITS + split)[:, None] * D + d[None, :]
        tl.store(sums + to, o1, mask=real)
        tl.store(sums + to + HALVED, o2, mask=real)
        tl.store(tops + head * SPLITS + split, top, mask=g < QUERIES)
        tl.store(totals + head * SPLITS + split, total, mask=g < QUERIES)


@jit
def _combine(mixed, sums, tops, totals, flag, D: tl.constexpr, SPLITS: tl.constexpr):
    if tl.load(flag) != 0:
        head = tl.program_id(0)
        s, d = tl.arange(0, SPLITS), tl.arange(0, D)
        top = tl.load(tops + head * SPLITS + s)
        weight = tl.exp(top - tl.max(top, 0))
        total = tl.sum(weight * tl.load(totals + head * SPLITS + s), 0)
        parts = tl.load(sums + (head * SPLITS + s)[:, None] * D + d[None, :])
        tl.store(mixed + head * D + d, (tl.sum(parts * weight[:, None], 0) / total).to(mixed.dtype.element_ty))  # pyright: ignore[reportOperatorIssue] -- arrays


def embed(w: Weights, s: State) -> None:
    hidden = w.config.hidden_size
    _embed[(triton.cdiv(hidden, EMBED_BLOCK),)](s.h, w.embedding, s.tokens, s.position, hidden, EMBED_BLOCK)


def route(w: Weights, s: State, layer: int) -> None:
    context = s.place.shape[1]
    trace = s.executed if s.trace is None else s.trace  # not read when the routers decide
    _route[(1,)](
        s.h, w.layers[layer].router, s.router, trace, s.executed, s.taken, s.place, s.entries, s.position, layer, context,
        HIDDEN=w.config.hidden_size, BLOCK=1024, TRACED=s.trace is not None, REUSE=s.policy == "reuse", num_warps=8,
    )  # fmt: skip


def qkv(w: Weights, s: State, layer: int) -> None:
    c = w.config
    always = c.num_heads * c.head_dim if s.policy == "dense" else None
    active = s.active(layer, ATTENTION)
    _launch(w.layers[layer].qkv, s.qkv, s.h, s.executed[layer, 0:], c.rms_norm_eps, norm=True, always=always, active=active)


def attend(w: Weights, s: State, layer: int) -> None:
    c = w.config
    sums, tops, totals = _scratch(w.device, c.num_heads, c.head_dim)
    flag = s.executed[layer, 0:]
    _attend[(c.num_kv_heads, SPLITS)](
        sums, tops, totals, s.qkv, s.rope, s.keys, s.values, s.place[layer], s.position, flag, c.head_dim**-0.5,
        HEADS=c.num_heads, KV_HEADS=c.num_kv_heads, D=c.head_dim, QUERIES=c.queries_per_kv_head,
        PADDED=triton.next_power_of_2(c.queries_per_kv_head), SPLITS=SPLITS, TOKENS=TOKENS, WRITE=s.policy == "dense",
    )  # fmt: skip
    _combine[(c.num_heads,)](s.mixed, sums, tops, totals, flag, D=c.head_dim, SPLITS=SPLITS)


def o(w: Weights, s: State, layer: int) -> None:
    _launch(w.layers[layer].o, s.h, s.mixed, s.executed[layer, 0:], 0.0, form=1, active=s.active(layer, ATTENTION_OUTPUT))


def gate_up(w: Weights, s: State, layer: int) -> None:
    flag, active = s.executed[layer, 1:], s.active(layer, FFN)
    _launch(w.layers[layer].gate_up, s.fed, s.h, flag, w.config.rms_norm_eps, norm=True, form=2, active=active)


def down(w: Weights, s: State, layer: int) -> None:
    _launch(w.layers[layer].down, s.h, s.fed, s.executed[layer, 1:], 0.0, form=1, active=s.active(layer, FFN_INNER))


def head(w: Weights, s: State) -> None:
    _launch(w.head, s.logits, s.h, s.executed[0], w.config.rms_norm_eps, norm=True, always=0)


def _launch(
    matrix: Matrix, y: torch.Tensor, x: torch.Tensor, flag: torch.Tensor, eps: float, norm: bool = False, form: int = 0,
    always: int | None = None, active: torch.Tensor | None = None,
) -> None:  # fmt: skip
    always = NEVER if always is None else always
    if active is not None:
        masked.product(matrix, y, x, active, flag, eps, norm, form, always)
        return
    rows = matrix.rows // 2 if form == 2 else matrix.rows
    block, groups, warps = tiling(rows, matrix.inputs)
    scales = matrix.data if matrix.scales is None else matrix.scales
    _product[(triton.cdiv(rows, block),)](
        y, x, matrix.data, scales, flag, eps, always, ROWS=rows, INPUTS=matrix.inputs, BLOCK=block,
        GROUPS=groups, NORM_BLOCK=1024, INT4=matrix.scales is not None, NORM=norm, FORM=form, GROUP=GROUP, HALF=HALF, ZERO=ZERO,
        num_warps=warps,
    )  # fmt: skip


def tiling(rows: int, inputs: int) -> tuple[int, int, int]:
    """(rows per program, groups of inputs at a time, warps): enough programs for every multiprocessor, long rows in one go."""
    block = 4 if rows >= 8192 else 2
    return block, min(8, triton.next_power_of_2(max(1, inputs // GROUP))), 4


@functools.cache
def _scratch(device: torch.device, heads: int, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(heads, SPLITS, head_dim), (heads, SPLITS) twice; float32."""
    shapes = ((heads, SPLITS, dim), (heads, SPLITS), (heads, SPLITS))
    sums, tops, totals = (torch.empty(shape, device=device) for shape in shapes)
    return sums, tops, totals
