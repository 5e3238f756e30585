"""Known architectures without weights: what is compiled to count cycles, not to run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compiler.frontend.checkpoint import Checkpoint, Router, expected_shapes
from skipopu.errors import CheckpointError
from skipopu.model_config import ModelConfig

# hidden, intermediate, layers, heads, KV heads, head_dim, vocabulary, positions
SHAPES = {
    "llama-2-7b": ModelConfig(4096, 11008, 32, 32, 32, 128, 32000, 4096),
    "llama-2-13b": ModelConfig(5120, 13824, 40, 40, 40, 128, 32000, 4096),
    "llama-3.1-8b": ModelConfig(4096, 14336, 32, 32, 8, 128, 128256, 131072),
}


def outline(name: str) -> Checkpoint:
    """A checkpoint of shape ``name`` whose tensors are one zero each, seen in their full shape; linear routers.

    Raises:
        CheckpointError: the shape is not known.
    """
    if name not in SHAPES:
        raise CheckpointError(f"shape {name!r} is not known; accepted: {', '.join(SHAPES)}")
    config = SHAPES[name]
    zero = np.float32(0)
    tensors = {key: np.broadcast_to(zero, shape) for key, shape in expected_shapes(config).items()}
    router = Router(np.broadcast_to(zero, (config.hidden_size,)), 0.0)
    return Checkpoint(Path(name), config, tensors, [(router, router)] * config.num_layers, outline=True)
