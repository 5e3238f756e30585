"""Files of thresholds, which mask input channels of products: ``masks.safetensors`` beside a checkpoint.

Tensors are ``model.layers.N.INPUT``, (channels,) uint16 each, with the inputs of :func:`skipopu.masks.channels`. What has none is not
masked. The text of a file's metadata is its writer's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import save

from compiler.frontend.stored import Stored
from skipopu.errors import CheckpointError
from skipopu.masks import U16, channels
from skipopu.model_config import ModelConfig

MASKS_FILE = "masks.safetensors"
KIND = "U16"  # as safetensors calls it
_NAME = re.compile(r"model\.layers\.(0|[1-9]\d{0,8})\.(.+)")

Given = Path | Literal[False] | None
Masks = dict[str, U16]  # thresholds (layers, channels) by input; 0 where a layer's is not masked


def read(path: Path, config: ModelConfig) -> Masks:
    """The inputs that a file masks in any layer.

    Raises:
        CheckpointError: naming the file, and the tensor that is not known, misshapen, of another type or of no layer; no tensor at all.
    """
    sizes, layers, masks = channels(config), config.num_layers, Masks()
    stored = Stored([path])
    for name, shape in stored.shapes.items():
        where, match = f"{path}: tensor {name}", _NAME.fullmatch(name)
        if match is None or match[2] not in sizes:
            raise CheckpointError(f"{where} is not known; accepted: {', '.join(f'model.layers.N.{own}' for own in sizes)}")
        layer, own = int(match[1]), match[2]
        if layer >= layers:
            raise CheckpointError(f"{where} is of a layer beyond the model's {layers}")
        if stored.kinds[name] != KIND:
            raise CheckpointError(f"{where} holds {stored.kinds[name]}; accepted: {KIND}")
        if shape != (sizes[own],):
            raise CheckpointError(f"{where} has shape {shape}; config.json asks for {(sizes[own],)}")
        masks.setdefault(own, np.zeros((layers, sizes[own]), np.uint16))[layer] = stored.take(name)
    if not masks:
        raise CheckpointError(f"{path}: it holds no thresholds; accepted: one tensor or more, or no file")
    return masks


def write(path: Path, masks: Masks, metadata: Mapping[str, str] | None = None) -> None:
    """Writes what :func:`read` reads."""
    tensors = {f"model.layers.{layer}.{own}": row for own, rows in masks.items() for layer, row in enumerate(rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save(tensors, metadata=dict(metadata or {})))


def of_checkpoint(directory: Path, given: Given, config: ModelConfig) -> Masks | None:
    """Thresholds of the file ``given``; by default of the one beside a checkpoint, if it is there; of False none."""
    if given is None and os.path.lexists(directory / MASKS_FILE):
        given = directory / MASKS_FILE
    return read(given, config) if given else None
