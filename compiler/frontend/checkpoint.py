"""Reads a Hugging Face checkpoint directory and SkipGPT routers into float32 arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compiler.frontend import files, masks, quantised, routers
from compiler.frontend.canonical import EMBEDDING, HEAD, NAMES, Canonical, Names
from compiler.frontend.lora import Merged
from compiler.frontend.masks import Given, Masks
from compiler.frontend.quantised.gguf import GgufTensors
from compiler.frontend.routers import Router, width_of_both
from compiler.frontend.tensors import F32, FileTensors, blocks
from skipopu import gguf_file
from skipopu.accept import read_json
from skipopu.errors import CheckpointError
from skipopu.gguf_file import SUFFIX
from skipopu.model_config import ModelConfig


@dataclass
class Checkpoint:
    """A model's canonical tensors (:mod:`compiler.frontend.canonical`); routers[layer] is (attention, FFN), or None when dense.

    ``outline``: shapes alone count; see :mod:`compiler.frontend.shapes`. ``remarks`` are warnings about what was read. ``own`` are the
    tensors that the canonical ones are made of, where these come from files. ``masks`` are thresholds of the layers' input channels.
    """

    directory: Path
    config: ModelConfig
    tensors: Mapping[str, F32]
    routers: list[tuple[Router, Router]] | None
    outline: bool = False
    remarks: tuple[str, ...] = ()
    own: FileTensors | None = None
    masks: Masks | None = None

    @property
    def router_width(self) -> int:
        """Elements between the two layers of its routers, of both modules; 0 for linear ones."""
        hidden = self.routers[0][0].hidden if self.routers else None
        return 0 if hidden is None else width_of_both(hidden.width)


def _check_names(canonical: Canonical, own: FileTensors, others: Collection[str], where: Path) -> None:
    """Raises CheckpointError for a tensor that is missing or misshapen, or that would change the model and that nothing reads.

    ``others`` are tensors that are no part of the form.
    """
    for name, shape in canonical.needed.items():
        if name not in own.shapes:
            near = next((f"; it has {other}" for other in own.shapes if other.endswith(f".{name}")), "")
            raise CheckpointError(f"{where}: tensor {name} is missing; a tensor of shape {shape} is needed{near}")
        if own.shapes[name] != shape:
            raise CheckpointError(
                f"{own.files[name]}: tensor {name} has shape {own.shapes[name]}; config.json asks for {shape}"
            )
    head, embedding = canonical.own_name(HEAD), canonical.own_name(EMBEDDING)
    for name, file in own.files.items():
        if name in canonical.needed or name in others:
            continue
        if own.packed and name.endswith(".bias") and not own[name].any():
            continue  # AutoGPTQ writes biases of zeros where a model has none
        if name != head or not canonical.tied:
            raise CheckpointError(
                f"{file}: tensor {name} is not known; accepted: those of a {canonical.config.num_layers}-layer"
                f" {canonical.kind} as config.json describes it, and of its routers"
            )
        same = (np.array_equal(own.read(name, rows), own.read(embedding, rows)) for rows in blocks(own.shapes[embedding]))
        if own.shapes[name] != own.shapes[embedding] or not all(same):
            raise CheckpointError(f"{file}: tensor {name} differs from the embedding; config.json says tie_word_embeddings")


def _stored(directory: Path) -> tuple[dict[str, Any], FileTensors, tuple[str, ...]]:
    """What config.json says, the checkpoint's own tensors, and remarks about them."""
    if directory.suffix == SUFFIX:
        file = gguf_file.read(directory)
        return file.config, GgufTensors(file), ()
    data = read_json(directory / "config.json", CheckpointError)
    ignored = NAMES.get(data["model_type"], Names()).ignored
    if (packing := data.get("quantization_config")) is None:
        return data, files.of_directory(directory, ignored), ()
    where = f"{directory / 'config.json'}: quantization_config"
    own = files.of_directory(directory, (*ignored, *quantised.ASIDE), quantised.unpack(packing, where))
    return data, own, quantised.remarks(packing, where)


def load(directory: Path, router_file: Path | None = None, lora: Path | None = None, mask_file: Given = None) -> Checkpoint:
    """Reads config.json and *.safetensors (sharded or not), or one .gguf file, and the routers, which are among these or in
    ``routers.safetensors`` or ``.pth`` beside them; those of ``router_file``, where it is given, whatever else there is.

    ``lora`` is the directory of an adapter that is merged into them; it may bring routers, as if they were among the model's tensors.
    Thresholds of input channels are those of ``mask_file``, by default of ``masks.safetensors`` beside them, of False none.

    The tensors' numbers are looked at, and read again when they are asked for.

    Raises:
        CheckpointError: naming the file and tensor.
    """
    directory = Path(directory)
    if lora is None or lora.resolve() != directory.resolve():
        files.refuse_adapter(directory)
    config = ModelConfig.load(directory)
    data, own, remarks = _stored(directory)
    if lora is not None:
        own = Merged(own, lora, NAMES.get(data["model_type"], Names()).whole)
        remarks += own.remarks(directory, data)
    canonical = Canonical(config, data, own, own.files.__getitem__)
    if isinstance(own, Merged) and canonical.tied:
        own.check_tied(canonical.own_name(EMBEDDING), canonical.own_name(HEAD))
    held = routers.inside(own)
    _check_names(canonical, own, held.values(), next(iter(own.files.values()), directory))
    for name, shape in canonical.needed.items():
        for rows in blocks(shape):
            canonical.take(name, rows)
    found, more = routers.of_checkpoint(directory, own, held, router_file, config.num_layers, config.hidden_size)
    thresholds = masks.of_checkpoint(directory, mask_file, config)
    return Checkpoint(directory, config, canonical.tensors, found, remarks=remarks + more, own=own, masks=thresholds)
