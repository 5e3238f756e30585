"""Routers as files have them."""

from __future__ import annotations

import numpy as np


def routers(layers: int, hidden: int) -> dict[str, np.ndarray]:
    table = {}
    for layer in range(layers):
        for module in ("attention", "mlp"):
            prefix = f"model.layers.{layer}.router_{module}.weight_predictor."
            table[prefix + "weight"] = np.ones((2, hidden), np.float32) * [[2.0], [1.0]]
            table[prefix + "bias"] = np.array([0.5, 1.0], np.float32)
    return {name: tensor.astype(np.float32) for name, tensor in table.items()}


def two_layers(layers: int, hidden: int, width: int, biases: tuple[str, ...] = ("hidden_layer", "weight_predictor")) -> dict:
    """As SkipGPT's TokenRouter names them."""
    rng, table = np.random.default_rng(1), {}
    for layer in range(layers):
        for module in ("attention", "mlp"):
            for part, shape in (("hidden_layer", (width, hidden)), ("weight_predictor", (2, width))):
                name = f"model.layers.{layer}.router_{module}.{part}"
                table[f"{name}.weight"] = rng.standard_normal(shape).astype(np.float32)
                if part in biases:
                    table[f"{name}.bias"] = rng.standard_normal(shape[0]).astype(np.float32)
    return table
