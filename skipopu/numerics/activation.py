"""Activations: f(gate) * up of gated products, f(x) of ADJUST, for the functions of :class:`Activation`."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from skipopu.numerics import fp32
from skipopu.numerics.fp32 import F32
from skipopu.numerics.tables import NORMAL, sigmoid, symmetric


class Activation(IntEnum):
    """Functions of a gated product (Config.ACTIVATION); ``a`` is Config.PARAMETER, an FP32 number."""

    SWISH = 0  # x * sigmoid(a * x): SiLU with a = 1, the quick GELU with a = 1.702
    GELU = 1  # x * Phi(x), the normal distribution's function
    RELU = 2  # max(x, 0)
    RELU2 = 3  # max(x, 0)^2
    LEAKY_RELU = 4  # x, or a * x where x is negative
    GELU_TANH = 5  # x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2, on machines with ADJUST


# Hugging Face's names: (code, parameter).
ACTIVATIONS = {
    "silu": (Activation.SWISH, 1.0),
    "swish": (Activation.SWISH, 1.0),
    "quick_gelu": (Activation.SWISH, 1.702),
    "gelu": (Activation.GELU, 0.0),
    "gelu_pytorch_tanh": (Activation.GELU_TANH, 0.0),
    "gelu_new": (Activation.GELU_TANH, 0.0),
    "gelu_fast": (Activation.GELU_TANH, 0.0),
    "relu": (Activation.RELU, 0.0),
    "relu2": (Activation.RELU2, 0.0),
    "leaky_relu": (Activation.LEAKY_RELU, 0.01),
}


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


def activate(code: Activation, x: F32, parameter: np.float32) -> F32:
    """f(x) as x * factor, rounded to FP32: gated with 1."""
    return fp32.multiply(x, factor(code, x, parameter))
