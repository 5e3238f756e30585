"""Known architectures without weights: what is compiled to count cycles, not to run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compiler.frontend.canonical import expected_shapes
from compiler.frontend.checkpoint import Checkpoint, Router
from skipopu.errors import CheckpointError
from skipopu.model_config import ModelConfig
from skipopu.shapes import label, shape

ROUTERS = ("linear", "two-layer")


def outline(name: str, routers: str = "linear", config: ModelConfig | None = None) -> Checkpoint:
    """A checkpoint whose tensors are one zero each, seen in their full shape: of ``config``, or of the known shape ``name``.

    ``routers`` is "linear" (hidden -> 2), or "two-layer" (hidden -> hidden / 4 -> 2). The machine has neither the biases nor
    the ReLU between the two layers, which would be part of the first one's drain and take no cycle: such a program can be
    counted, but does not compute what those routers would.

    Raises:
        CheckpointError: the shape, or the kind of routers, is not known.
    """
    if routers not in ROUTERS:
        raise CheckpointError(f"routers are {routers!r}; accepted: {', '.join(ROUTERS)}")
    config = shape(name) if config is None else config
    zero = np.float32(0)
    tensors = {key: np.broadcast_to(zero, shape) for key, shape in expected_shapes(config).items()}
    router = Router(np.broadcast_to(zero, (config.hidden_size,)), 0.0)
    hidden = config.hidden_size // 4 if routers == "two-layer" else 0
    layers = [(router, router)] * config.num_layers
    return Checkpoint(Path(label(name)), config, tensors, layers, outline=True, router_hidden=hidden)


def random_checkpoint(config: ModelConfig, seed: int = 0, routers: bool = True, scale: float = 1.0) -> Checkpoint:
    """A checkpoint of Gaussian weights; routers that skip about a third of the modules."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, size in sorted(expected_shapes(config).items(), key=lambda item: -len(item[1])):  # matrices first
        if name.endswith(".bias"):
            tensors[name] = (0.3 * rng.standard_normal(size)).astype(np.float32)
        elif len(size) == 1:
            tensors[name] = (1 + 0.2 * rng.standard_normal(size)).astype(np.float32)
        else:
            tensors[name] = (scale * rng.standard_normal(size) / np.sqrt(size[1])).astype(np.float32)
    tensors["model.embed_tokens.weight"] *= 4
    return Checkpoint(Path("random"), config, tensors, random_routers(config, rng) if routers else None)


def random_routers(config: ModelConfig, rng: np.random.Generator) -> list[tuple[Router, Router]]:
    """Routers that skip about a third of the modules where elements of the residual stream are of size 1."""

    def router() -> Router:
        weight = (rng.standard_normal(config.hidden_size) / 8).astype(np.float32)
        return Router(weight, float(0.3 + 0.3 * rng.standard_normal()))

    return [(router(), router()) for _ in range(config.num_layers)]
