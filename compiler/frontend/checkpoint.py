"""Reads a Hugging Face checkpoint directory and SkipGPT routers into float32 arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compiler.frontend import files, routers
from compiler.frontend.canonical import EMBEDDING, HEAD, NAMES, Canonical, Names
from compiler.frontend.routers import Router
from compiler.frontend.tensors import F32, blocks
from skipopu.accept import read_json
from skipopu.errors import CheckpointError
from skipopu.model_config import ModelConfig


@dataclass
class Checkpoint:
    """A model's canonical tensors (:mod:`compiler.frontend.canonical`); routers[layer] is (attention, FFN), or None when dense.

    ``outline``: shapes alone count; see :mod:`compiler.frontend.shapes`. ``router_hidden`` is the width of the hidden layer of
    its two-layer routers, 0 for linear ones.
    """

    directory: Path
    config: ModelConfig
    tensors: Mapping[str, F32]
    routers: list[tuple[Router, Router]] | None
    outline: bool = False
    router_hidden: int = 0


def _check_names(canonical: Canonical, own: files.SafeTensors, others: Collection[str], where: Path) -> None:
    """Raises CheckpointError for a tensor that is missing or misshapen, or that would change the model and that nothing reads.

    ``others`` are tensors that are no part of the form.
    """
    for name, shape in canonical.needed.items():
        if name not in own.shapes:
            raise CheckpointError(f"{where}: tensor {name} is missing; a tensor of shape {shape} is needed")
        if own.shapes[name] != shape:
            raise CheckpointError(
                f"{own.files[name]}: tensor {name} has shape {own.shapes[name]}; config.json asks for {shape}"
            )
    head, embedding = canonical.own_name(HEAD), canonical.own_name(EMBEDDING)
    for name, file in own.files.items():
        if name in canonical.needed or name in others:
            continue
        if name != head or not canonical.tied:
            raise CheckpointError(
                f"{file}: tensor {name} is not known; accepted: those of a {canonical.config.num_layers}-layer"
                f" {canonical.kind} as config.json describes it, and of its routers"
            )
        same = (np.array_equal(own.read(name, rows), own.read(embedding, rows)) for rows in blocks(own.shapes[embedding]))
        if own.shapes[name] != own.shapes[embedding] or not all(same):
            raise CheckpointError(f"{file}: tensor {name} differs from the embedding; config.json says tie_word_embeddings")


def load(directory: Path, router_file: Path | None = None) -> Checkpoint:
    """Reads config.json, *.safetensors (sharded or not) and the routers, which are among these or in ``routers.safetensors`` or
    ``.pth`` beside them; those of ``router_file``, where it is given, whatever else there is.

    The tensors' numbers are looked at, and read again when they are asked for.

    Raises:
        CheckpointError: naming the file and tensor.
    """
    directory = Path(directory)
    files.refuse_adapter(directory)
    config = ModelConfig.load(directory)
    data = read_json(directory / "config.json", CheckpointError)
    own = files.of_directory(directory, NAMES.get(data["model_type"], Names()).ignored)
    canonical = Canonical(config, data, own, own.files.__getitem__)
    held = routers.inside(own)
    _check_names(canonical, own, held.values(), next(iter(own.files.values()), directory))
    for name, shape in canonical.needed.items():
        for rows in blocks(shape):
            canonical.take(name, rows)
    found = routers.of_checkpoint(directory, own, held, router_file, config.num_layers, config.hidden_size)
    return Checkpoint(directory, config, canonical.tensors, found)
