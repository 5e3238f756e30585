"""Known architectures without weights: what is compiled to count cycles, not to run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compiler.frontend.canonical import expected_shapes
from compiler.frontend.checkpoint import Checkpoint
from compiler.frontend.routers import Hidden, Router, usual_width
from skipopu.errors import CheckpointError
from skipopu.model_config import ModelConfig
from skipopu.shapes import label, shape

LINEAR, TWO_LAYER, NONE = ROUTERS = ("linear", "two-layer", "none")


def outline(name: str, routers: str = LINEAR, config: ModelConfig | None = None) -> Checkpoint:
    """A checkpoint whose tensors are one zero each, seen in their full shape: of ``config``, or of the known shape ``name``.

    ``routers`` is "linear" (hidden -> 2), "two-layer" (hidden -> hidden / 4 -> 2), or "none".

    Raises:
        CheckpointError: the shape, or the kind of routers, is not known.
    """
    if routers not in ROUTERS:
        raise CheckpointError(f"routers are {routers!r}; accepted: {', '.join(ROUTERS)}")
    config = shape(name) if config is None else config
    zero = np.float32(0)
    tensors = {key: np.broadcast_to(zero, shape) for key, shape in expected_shapes(config).items()}
    width, inner = config.hidden_size, None
    if routers == TWO_LAYER:
        width = usual_width(width)
        inner = Hidden(np.broadcast_to(zero, (width, config.hidden_size)), np.broadcast_to(zero, (width,)))
    router = Router(np.broadcast_to(zero, (width,)), 0.0, inner)
    every = None if routers == NONE else [(router, router)] * config.num_layers
    return Checkpoint(Path(label(name)), config, tensors, every, outline=True)


def random_checkpoint(config: ModelConfig, seed: int = 0, routers: bool | str = True, scale: float = 1.0) -> Checkpoint:
    """A checkpoint of Gaussian weights; routers, of a kind of :data:`ROUTERS`, that skip about a third of the modules."""
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
    return Checkpoint(
        Path("random"),
        config,
        tensors,
        random_routers(config, rng, routers == TWO_LAYER) if routers not in (False, NONE) else None,
    )


def random_routers(config: ModelConfig, rng: np.random.Generator, two: bool = False) -> list[tuple[Router, Router]]:
    """Routers that skip about a third of the modules where elements of the residual stream are of size 1."""

    def router() -> Router:
        if two:
            width = usual_width(config.hidden_size)
            weight = (rng.standard_normal((width, config.hidden_size)) / np.sqrt(config.hidden_size)).astype(np.float32)
            bias, last = (rng.standard_normal((2, width)) / 2).astype(np.float32)
            return Router(last, float(0.3 - 0.4 * last.sum()), Hidden(weight, bias))
        weight = (rng.standard_normal(config.hidden_size) / 8).astype(np.float32)
        return Router(weight, float(0.3 + 0.3 * rng.standard_normal()))

    return [(router(), router()) for _ in range(config.num_layers)]
