"""Small random checkpoints for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compiler.frontend.checkpoint import Checkpoint, Router, expected_shapes
from skipopu.model_config import ModelConfig


def small_config(**changes: object) -> ModelConfig:
    """A two-layer model that every target runs; ``changes`` replace fields."""
    fields: dict[str, object] = {
        "hidden_size": 96,
        "intermediate_size": 200,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 32,
        "vocab_size": 70,
        "max_positions": 64,
        "eos_token_ids": (),
    }
    return ModelConfig(**{**fields, **changes})  # type: ignore[arg-type]


def random_checkpoint(config: ModelConfig, seed: int = 0, routers: bool = True, scale: float = 1.0) -> Checkpoint:
    """Gaussian weights; routers that skip about a third of the modules."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in expected_shapes(config).items():
        if len(shape) == 1:
            tensors[name] = (1 + 0.2 * rng.standard_normal(shape)).astype(np.float32)
        else:
            tensors[name] = (scale * rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
    tensors["model.embed_tokens.weight"] *= 4
    pairs = None
    if routers:
        pairs = []
        for _ in range(config.num_layers):
            both = [
                Router(
                    (rng.standard_normal(config.hidden_size) / 8).astype(np.float32), float(0.3 + 0.3 * rng.standard_normal())
                )
                for _ in range(2)
            ]
            pairs.append((both[0], both[1]))
    return Checkpoint(Path("random"), config, tensors, pairs)
