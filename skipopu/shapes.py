"""Known architectures, by name."""

from __future__ import annotations

from skipopu.errors import CheckpointError
from skipopu.model_config import ModelConfig

# hidden, intermediate, layers, heads, KV heads, head_dim, vocabulary, positions
SHAPES = {
    "llama-2-7b": ModelConfig(4096, 11008, 32, 32, 32, 128, 32000, 4096),
    "llama-2-13b": ModelConfig(5120, 13824, 40, 40, 40, 128, 32000, 4096),
    "llama-3.1-8b": ModelConfig(4096, 14336, 32, 32, 8, 128, 128256, 131072),
    "llama-3.2-1b": ModelConfig(2048, 8192, 16, 32, 8, 64, 128256, 131072, tie_word_embeddings=True),
    "mistral-7b": ModelConfig(4096, 14336, 32, 32, 8, 128, 32768, 32768),
}


def shape(name: str) -> ModelConfig:
    """A known architecture; raises CheckpointError when it is not known."""
    if name not in SHAPES:
        raise CheckpointError(f"shape {name!r} is not known; accepted: {', '.join(SHAPES)}")
    return SHAPES[name]
