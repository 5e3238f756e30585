"""Arrangements of a checkpoint's rows in a weight stream, and their inverses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipopu.model_config import ModelConfig

I64 = NDArray[np.int64]
ORDERS = ("plain", "split", "heads", "rope", "keys", "kv", "gate_up")


def rotated_pairs(config: ModelConfig) -> int:
    """Pairs (i, i + n) of a head that rotary tables turn, n of every table that turns any: queries meet keys of other layers."""
    return max((len(table.frequencies) for table in config.rope), default=config.head_dim // 2)


def _rope(heads: int, config: ModelConfig) -> I64:
    """Pairs (i, i + n) of each head become adjacent rows (2i, 2i+1); what is not rotated stays behind them."""
    pairs, dim = rotated_pairs(config), config.head_dim
    within = np.concatenate([np.arange(2 * pairs).reshape(2, -1).T.reshape(-1), np.arange(2 * pairs, dim)])
    return (np.arange(heads)[:, None] * dim + within).reshape(-1)


def permutation(order: str, config: ModelConfig, rows: int) -> I64:
    """source[i] is the checkpoint row that stands at row i of the stream."""
    if order == "rope":
        return _rope(config.num_heads, config)
    if order in ("keys", "kv"):
        keys = _rope(config.num_kv_heads, config)
        return keys if order == "keys" else np.concatenate([keys, len(keys) + np.arange(len(keys))])
    if order == "gate_up":
        return np.arange(rows).reshape(2, -1).T.reshape(-1)
    return np.arange(rows)
