"""Known architectures, by name."""

from __future__ import annotations

from pathlib import Path

from skipopu.errors import CheckpointError, not_known
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
    """A known architecture, or that of a ``config.json`` (the file, or its directory).

    Raises:
        CheckpointError: it is not known, or the file cannot be used.
    """
    if name in SHAPES:
        return SHAPES[name]
    path = Path(name)
    if not (path.exists() or "/" in name or path.suffix == ".json"):
        raise CheckpointError(not_known("shape", name, SHAPES, ", or a config.json or its directory"))
    return ModelConfig.load(path)


def label(name: str) -> str:
    """What reports call a shape: its name, or its directory's or file's."""
    path = Path(name).absolute()
    if name in SHAPES or path.suffix != ".json":
        return path.name
    return path.parent.name if path.name == "config.json" else path.stem
