"""Soft caps of attention scores: s becomes c * tanh(s / c) before the softmax.

c * tanh(s / c) = 2c * sigmoid(2s / c) - c, and a softmax needs differences only. So queries carry scores x = s * 2 / c instead of
s * log2(e), and probabilities are 2^(y(largest x) - y(x)) with y(x) = F * sigmoid(x), F = 2c * log2(e); sigmoid grows with x, so that
the largest x is found before any is capped.
"""

from __future__ import annotations

import math

import numpy as np

from skipopu.numerics import fp32
from skipopu.numerics.fp32 import F32
from skipopu.numerics.tables import SIGMOID, symmetric

LEAST, LARGEST = 1e-3, 1e3  # caps; beyond, sigmoid's error would move a probability by more than 0.32 %
ERROR = SIGMOID.error_bound + 2.0**-22  # of sigmoid: what y(x) is off by, at most, in units of F, besides FP32 roundings


def argument(cap: float) -> float:
    """What scores are multiplied by in place of log2(e)."""
    return 2 / cap


def factor(cap: float) -> np.float32:
    """F, the value of register SOFT_CAP; 0 where there is no cap."""
    return np.float32(2 * cap * math.log2(math.e))


def capped(x: F32, factor: np.float32) -> F32:
    """y(x) = factor * sigmoid(x); absolute error below factor * (2^-20.4 + 2^-24)."""
    return fp32.multiply(symmetric(SIGMOID, x), factor)
