"""Powers of two between products whose results FP16 would not hold and those that read them: no other number changes.

A product of V's rows times 2^-a and O's columns times 2^a is the same to the bit, and so are scores of keys times 2^-a and queries times
2^a. Where a token skips attention, a layer reads the keys and values of the layer before: there is one power for all layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from compiler.frontend.canonical import PARTS
from compiler.frontend.tensors import F32
from skipopu.model_config import ModelConfig
from skipopu.numerics import fp16

LARGEST = float(fp16.LARGEST)
MARGIN = 1  # power of two that is left for texts with larger numbers than the calibration's


def power_for(most: float) -> int:
    """What the numbers, whose largest is ``most``, have to be divided by, as a power of two; 0 where FP16 holds them."""
    return 0 if most <= LARGEST else math.ceil(math.log2(most / LARGEST)) + MARGIN


def _parts(config: ModelConfig, layer: int, kind: str) -> Iterator[tuple[str, int]]:
    """Tensors of a layer that are multiplied, each with the sign of its power: -1 makes ``kind`` smaller, 1 makes up for it."""
    prefix = f"model.layers.{layer}."
    for product, sign in (("v", -1), ("o", 1)) if kind == "value" else (("k", -1), ("q", 1)):
        if kind == "key" and config.qk_norm:  # whatever the product is, its norm makes it the same
            yield f"{prefix}self_attn.{product}_norm.weight", sign
            continue
        yield f"{prefix}{PARTS[product]}.weight", sign
        if product != "o" and product in config.biases:
            yield f"{prefix}{PARTS[product]}.bias", sign


def rescale(config: ModelConfig, tensors: dict[str, F32], kind: str, power: int) -> None:
    """Divides all ``kind``s, "key" or "value", by 2^power, and makes up for it; canonical ``tensors`` change."""
    for layer in range(config.num_layers):
        for name, sign in _parts(config, layer, kind):
            tensors[name] = np.ldexp(tensors[name], sign * power).astype(np.float32)
