"""Routing traces that no model made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def independent(layers: int, tokens: int, attention: float, ffn: float, seed: int) -> NDArray[np.bool_]:
    """bool (layers, 2, tokens), 1 = execute: each module skipped with its ratio; layer 0's attention executes."""
    draws = np.random.default_rng(seed).random((layers, 2, tokens))
    executed = draws >= np.array([attention, ffn])[None, :, None]
    executed[0, 0] = True
    return executed
