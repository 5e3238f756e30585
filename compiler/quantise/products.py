"""A model's products as the machine multiplies: which tensors they are, what they read, norm gains part of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compiler.frontend.canonical import EMBEDDING, HEAD, PARTS, READERS
from compiler.frontend.tensors import F32
from skipopu.model_config import ModelConfig

# Products with one input, of the same tokens.
READ = {"q": "q", "k": "kv", "v": "kv", "o": "o", "gate": "up", "up": "up", "down": "down", "head": "head"}


def tensor_of(product: str, layer: int) -> str:
    """The canonical name of a product's weights; ``layer`` is nothing to the head."""
    return HEAD if product == "head" else f"model.layers.{layer}.{PARTS[product]}.weight"


def in_layer(config: ModelConfig) -> list[str]:
    """The products of a layer."""
    return [product for product in PARTS if config.gated or product != "gate"]


def products(config: ModelConfig) -> list[tuple[str, int]]:
    """Every product with its layer, the head behind them."""
    return [*((product, layer) for layer in range(config.num_layers) for product in in_layer(config)), ("head", 0)]


def gain_of(config: ModelConfig, tensors: Mapping[str, F32], product: str, layer: int) -> str | None:
    """The canonical name of the gain that the product's weights take in, if any."""
    if product == "head":
        return None if config.final_bias else "model.norm.weight"
    if product not in READERS or not config.pre_norm:
        return None
    norm = f"model.layers.{layer}.{READERS[product]}"
    return None if f"{norm}.bias" in tensors else f"{norm}.weight"


def folded(config: ModelConfig, tensors: Mapping[str, F32]) -> dict[str, F32]:
    """All canonical tensors, a head of its own among them; gains in front of products are 1, the products' weights times them."""
    result = {name: np.array(tensor) for name, tensor in tensors.items()}
    result.setdefault(HEAD, result[EMBEDDING].copy())
    gains: set[str] = set()
    for product, layer in products(config):
        if (gain := gain_of(config, tensors, product, layer)) is not None:
            result[tensor_of(product, layer)] *= result[gain]
            gains.add(gain)
    for gain in gains:
        result[gain] = np.ones_like(result[gain])
    return result
