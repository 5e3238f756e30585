"""Two-pass attention, exact sums (numerics profile exact18)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipopu.numerics import align, fp32
from skipopu.numerics.fp16 import ALIGNED_BIAS as KV_BIAS
from skipopu.numerics.fp32 import F32, F64, I64
from skipopu.numerics.soft_cap import capped
from skipopu.numerics.tables import exp2_negative, reciprocal, shift_half_up

EXACT_TOKENS = 2048  # p' (25 bits) x v (18 bits) summed over this many tokens is exact in float64


def attend(
    query: F64,
    query_exponent: I64,
    key: F64,
    key_exponent: I64,
    value: F64,
    value_exponent: I64,
    visible: NDArray[np.int64],
    behind: NDArray[np.int64] | int = 0,
    cap: np.float32 | None = None,
) -> F32:
    """Attention of several slots over the mapped entries.

    Args:
        query: (slots, kv_heads, queries, dim) aligned, its exponents (slots, kv_heads, queries).
        key, value: (tokens, kv_heads, dim) aligned, their exponent fields (tokens, kv_heads).
        visible: (slots,) number of leading tokens each slot sees, but for the first ``behind`` (slots,) of them.
        cap: factor of the scores' soft cap, see :mod:`skipopu.numerics.soft_cap`.

    Returns:
        (slots, kv_heads, queries, dim) float32.
    """
    exact = query @ key.transpose(1, 2, 0)  # (slots, kv_heads, queries, tokens)
    exponent = query_exponent[..., None] - align.ALIGNED_BIAS + (key_exponent.T - KV_BIAS)[None, :, None, :]
    score = fp32.narrow(np.ldexp(exact, exponent))
    token = np.arange(len(key))
    seen = (token < visible[:, None]) & (token >= np.reshape(behind, (-1, 1)))  # (slots, tokens)
    hidden = None if seen.all() else ~seen[:, None, None, :]
    shown = score if hidden is None else np.where(hidden, np.float32(-np.inf), score)
    maximum = shown.max(-1, keepdims=True)
    if cap:
        score, maximum = capped(score, cap), capped(maximum, cap)
    p = exp2_negative(fp32.add(maximum, -score))
    fields = value_exponent.T[None]  # (1, kv_heads, tokens)
    if hidden is not None:
        p = np.where(hidden, 0, p)
        fields = np.where(seen[:, None, :], fields, 0)
    largest = fields.max(-1)  # (slots, kv_heads)
    scaled = shift_half_up(p, np.maximum(largest[..., None] - fields, 0)[:, :, None, :])
    total = p.sum(-1)
    by_head = value.transpose(1, 0, 2)  # (kv_heads, tokens, dim)
    numerator = np.zeros((*p.shape[:-1], value.shape[-1]), np.int64)
    for start in range(0, len(key), EXACT_TOKENS):
        part = slice(start, start + EXACT_TOKENS)
        numerator += (scaled[..., part].astype(np.float64) @ by_head[:, part]).astype(np.int64)
    mixed = fp32.from_integer(numerator, (largest - KV_BIAS)[..., None, None])
    return fp32.multiply(mixed, reciprocal(fp32.from_integer(total, 0))[..., None])
