"""Adapters in PEFT's files, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from compiler.frontend.checkpoint import load
from tests.support import random_checkpoint, small_config

Arrays = dict[str, np.ndarray]
CONFIG = small_config()
PEFT = "base_model.model."
UP, QUERY, DOWN = "model.layers.1.mlp.up_proj", "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
RANK = 4
BASE: dict[str, Any] = {
    "peft_type": "LORA",
    "target_modules": "all-linear",
    "r": RANK,
    "lora_alpha": 6,
    "bias": "none",
    "init_lora_weights": True,
}
RNG = np.random.default_rng(4)


def drawn(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / 8).astype(np.float32)


def pair(module: str, rank: int = RANK, prefix: str = PEFT, name: str = "") -> Arrays:
    """A module's two matrices."""
    rows, columns = random_checkpoint(CONFIG).tensors[f"{module}.weight"].shape
    return {
        f"{prefix}{module}.lora_A.{name}weight": drawn(rank, columns),
        f"{prefix}{module}.lora_B.{name}weight": drawn(rows, rank),
    }


def adapter(directory: Path, tensors: Arrays, **config: Any) -> Path:
    path = directory / "adapter"
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(BASE | config))
    save_file(tensors, path / "adapter_model.safetensors")
    return path


def product(tensors: Arrays, module: str, scale: float, prefix: str = PEFT, name: str = "") -> np.ndarray:
    return scale * (
        tensors[f"{prefix}{module}.lora_B.{name}weight"].astype(np.float64) @ tensors[f"{prefix}{module}.lora_A.{name}weight"]
    )


def added(directory: Path, path: Path, module: str, part: str = "weight") -> np.ndarray:
    """What the adapter changed of a module."""
    name = f"{module}.{part}"
    return load(directory, lora=path).tensors[name].astype(np.float64) - load(directory).tensors[name]
