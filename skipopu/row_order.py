"""Arrangements of a checkpoint's rows in a weight stream, and their inverses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipopu.model_config import ModelConfig

I64 = NDArray[np.int64]
ORDERS = ("plain", "split", "heads", "rope", "kv", "gate_up")


def _rope(heads: int, head_dim: int) -> I64:
    """Half-split pairs (i, i + head_dim/2) become adjacent rows (2i, 2i+1)."""
    within = np.arange(head_dim).reshape(2, -1).T.reshape(-1)
    return (np.arange(heads)[:, None] * head_dim + within).reshape(-1)


def permutation(order: str, config: ModelConfig, rows: int) -> I64:
    """source[i] is the checkpoint row that stands at row i of the stream."""
    if order == "rope":
        return _rope(config.num_heads, config.head_dim)
    if order == "kv":
        keys = _rope(config.num_kv_heads, config.head_dim)
        return np.concatenate([keys, len(keys) + np.arange(len(keys))])
    if order == "gate_up":
        return np.arange(rows).reshape(2, -1).T.reshape(-1)
    return np.arange(rows)
