"""ADJUST: 1/rms of FP32 vectors as they are, gain, bias, and what follows."""

from __future__ import annotations

import numpy as np

from skipopu.numerics import fp32
from skipopu.numerics.fp32 import F32
from skipopu.numerics.tables import reciprocal_sqrt

PARTIALS = 64  # sums that elements go round: more than an adder's latency times the elements that a machine takes in a cycle


def sum_of_squares(x: F32) -> F32:
    """FP32 sum over the last axis: element i is added to partial sum i mod 64 in order, then halves of the sums are added."""
    squares = fp32.multiply(x, x)
    missing = -x.shape[-1] % PARTIALS
    if missing:
        squares = np.concatenate([squares, np.zeros((*x.shape[:-1], missing), np.float32)], -1)
    rounds = squares.reshape(*x.shape[:-1], -1, PARTIALS)
    total = np.zeros((*x.shape[:-1], PARTIALS), np.float32)
    for i in range(rounds.shape[-2]):
        total = fp32.add(total, rounds[..., i, :])
    while (half := total.shape[-1] // 2) > 0:
        total = fp32.add(total[..., :half], total[..., half:])
    return total[..., 0]


def inverse_rms(x: F32, inverse_size: np.float32, epsilon: np.float32) -> F32:
    """1 / sqrt(mean square + epsilon) over the last axis."""
    return reciprocal_sqrt(fp32.add(fp32.multiply(sum_of_squares(x), inverse_size), epsilon))


def affine(x: F32, gain: F32, bias: F32) -> F32:
    """x * gain + bias, both rounded to FP32."""
    return fp32.add(fp32.multiply(x, gain), bias)


def relu(x: F32) -> F32:
    """max(x, 0); of -0 too, 0."""
    return np.where(np.signbit(x), np.float32(0), x)


def rotate(x: F32, row: F32) -> F32:
    """Pairs (2i, 2i+1) of (..., n) turned by (..., n / 2, 2) cos and sin; each product and each sum is rounded to FP32."""
    even, odd, cos, sin = x[..., 0::2], x[..., 1::2], row[..., 0], row[..., 1]
    turned = (
        fp32.add(fp32.multiply(even, cos), -fp32.multiply(odd, sin)),
        fp32.add(fp32.multiply(odd, cos), fp32.multiply(even, sin)),
    )
    return np.stack(turned, -1).reshape(x.shape)
