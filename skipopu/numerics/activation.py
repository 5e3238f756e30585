"""Activations of gated products: f(gate) * up for the functions of :class:`skipopu.isa.spec.Activation`."""

from __future__ import annotations

import numpy as np

from skipopu.isa.spec import Activation
from skipopu.numerics import fp32
from skipopu.numerics.fp32 import F32
from skipopu.numerics.tables import NORMAL, sigmoid, symmetric


def factor(code: Activation, gate: F32, parameter: np.float32) -> F32:
    """f(gate) / gate, what the product gate * up is multiplied by (RELU2: max(gate, 0))."""
    negative = np.signbit(gate)
    if code == Activation.SWISH:
        return sigmoid(fp32.multiply(gate, parameter))
    if code == Activation.GELU:
        return symmetric(NORMAL, gate)
    if code == Activation.RELU:
        return np.where(negative, np.float32(0), np.float32(1))
    if code == Activation.RELU2:
        return np.where(negative, np.float32(0), gate)
    return np.where(negative, parameter, np.float32(1))


def gated(code: Activation, gate: F32, up: F32, parameter: np.float32) -> F32:
    """f(gate) * up as (gate * up) * factor, each product rounded to FP32."""
    return fp32.multiply(fp32.multiply(gate, up), factor(code, gate, parameter))
