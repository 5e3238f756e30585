"""A quantised checkpoint as a Hugging Face directory: the integers in compressed-tensors' format, or their values.

It has the family's own names, so that other programs load it. Families whose norms take means (LayerNorm) are written in the
canonical form, whose products are the quantised ones: a Llama with the key ``skipopu`` in its config.json, which this compiler reads.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from compiler.frontend.canonical import PARTS, Canonical
from compiler.frontend.checkpoint import Checkpoint
from compiler.frontend.routers import inside
from compiler.frontend.stored import opened
from compiler.frontend.tensors import F32
from compiler.quantise.nearest import Rounded
from compiler.quantise.products import tensor_of
from skipopu.accept import read_json
from skipopu.errors import CheckpointError, ProgramError
from skipopu.model_config import TOKENIZERS, ModelConfig
from skipopu.numerics.formats import INT4, INT4Z, INT8, Format
from skipopu.text import carried
from skipopu.text_files import CONFIG as TOKENIZER_CONFIG
from skipopu.text_files import READ, TEMPLATES, TOKENIZER
from skipopu.tokenizer_class import BACKEND, class_of

WEIGHTS = "model.safetensors"
OLDER = "PreTrainedTokenizerFast"  # BACKEND's name in transformers 4, which 5 knows as well
COPIED = tuple(dict.fromkeys((*READ, *TOKENIZERS, "generation_config.json")))


def packed(codes: NDArray[np.int8], bits: int) -> NDArray[np.int32]:
    """(rows, n) integers as compressed-tensors packs them: plus 2^(bits - 1), the first in the lowest bits of a row's first word."""
    per_word = 32 // bits
    wide = np.pad((codes.astype(np.int16) + (1 << bits - 1)).astype(np.uint32), ((0, 0), (0, -codes.shape[1] % per_word)))
    shifted = wide.reshape(len(codes), -1, per_word) << np.arange(0, 32, bits, dtype=np.uint32)
    return np.bitwise_or.reduce(shifted, -1).view(np.int32)


def settings(formats: Mapping[str, Format], group: int) -> dict[str, Any]:
    """``quantization_config`` of modules' names, each with the format of its codes."""

    def of(format: Format, targets: list[str]) -> dict[str, Any]:
        weights = {"num_bits": format.bits, "type": "int", "symmetric": not format.zero_points, "strategy": "group"}
        return {"targets": targets, "weights": weights | {"group_size": group, "dynamic": False}, "input_activations": None}

    kinds = sorted(set(formats.values()), key=lambda format: (format.bits, format.code))
    targets = {
        kind: sorted({f"re:.*{name.rpartition('.')[2]}$" for name, its in formats.items() if its == kind}) for kind in kinds
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{k}": of(kind, targets[kind] if len(kinds) > 1 else ["Linear"]) for k, kind in enumerate(kinds)
        },
        "ignore": [],
    }


def stored_as(parts: Sequence[Rounded]) -> dict[str, NDArray[Any]]:
    """A matrix of products below one another in compressed-tensors' parts, by their names; zero points are stored less 8, as codes are."""
    format = parts[0].format
    codes: NDArray[np.int8] = np.concatenate([part.codes for part in parts])
    zeros = format.zeros(codes).astype(np.int8) - np.int8(8) if format.zero_points else np.zeros(codes.shape[:2], np.int8)
    stored = (codes + zeros[..., None]).reshape(len(codes), -1)[:, : parts[0].n]
    result: dict[str, NDArray[Any]] = {
        "weight_packed": packed(stored, format.bits),
        "weight_scale": np.concatenate([part.scales for part in parts]),
        "weight_shape": np.array(stored.shape),
    }
    if format.zero_points:
        result["weight_zero_point"] = np.ascontiguousarray(packed(zeros.T, format.bits).T)
    return result


class Writer:
    """Writes a directory; what cannot be written is refused when this is made, before anything is."""

    def __init__(
        self, checkpoint: Checkpoint, config: ModelConfig, group: int, format: Callable[[str], Format], plain: bool
    ) -> None:
        """``config`` of the quantised model, whose head is its own; ``format`` of a product."""
        where = checkpoint.directory
        self.checkpoint, self.config, self.group, self.plain = checkpoint, config, group, plain
        self.data = read_json(where / "config.json", CheckpointError)
        if "quantization_config" in self.data:
            raise CheckpointError(f"{where}: config.json has quantization_config; accepted: weights that are not quantised yet")
        assert checkpoint.own is not None, "a checkpoint that was read from files"
        self.own = checkpoint.own
        self.canonical = Canonical(checkpoint.config, self.data, self.own, self.own.files.__getitem__)
        inputs = {
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_attention_heads * head_dim": config.num_heads * config.head_dim,
        }
        for what, size in inputs.items() if not plain else ():
            if size % group:
                raise CheckpointError(
                    f"{where}: {what} is {size}, no multiple of {group} weights per scale, which compressed-tensors asks for; give"
                    " another --group, or --plain"
                )
        held: dict[str, Format] = {}
        assert all(format(product) in (INT4, INT4Z, INT8) for product in PARTS), "what compressed-tensors has"
        for product in PARTS:
            name, own = self.name(tensor_of(product, 0)), format(product)
            if held.setdefault(name, own) != own:
                raise CheckpointError(
                    f"{where}: {product} is part of tensor {name}, whose other rows are {held[name].name}; accepted: one format"
                )

    def name(self, canonical: str) -> str:
        """What the written file calls a canonical tensor, or the one that holds it."""
        return canonical if self.canonical.family.centred else self.canonical.own_name(canonical)

    def write(self, output: Path, tensors: Mapping[str, F32], rounded: Mapping[str, Rounded], routers: Path | None) -> int:
        """Writes the model of canonical ``tensors`` and rounded products, copies the rest; returns the bytes of codes and scales."""
        codes: dict[str, list[Rounded]] = {}
        for name in tensors:
            if name in rounded:
                codes.setdefault(self.name(name), []).append(rounded[name])
        result = self.others(tensors, codes)
        if routers is None:
            result |= {name: self.stored(own) for name, own in inside(self.own).items()}
        for name, parts in codes.items():
            if self.plain:
                result[name] = torch.from_numpy(np.concatenate([part.values for part in parts]))
                continue
            module = name.removesuffix("weight")
            result |= {module + part: torch.from_numpy(table) for part, table in stored_as(parts).items()}
        output.mkdir(parents=True, exist_ok=True)
        save_file(result, output / WEIGHTS, metadata={"format": "pt"})
        formats = {name.removesuffix(".weight"): parts[0].format for name, parts in codes.items()}
        (output / "config.json").write_text(json.dumps(self.description(formats), indent=2) + "\n")
        for path in [self.checkpoint.directory / name for name in COPIED] + ([routers] if routers else []):
            if path.exists():
                shutil.copyfile(path, output / (path.name if path != routers else f"routers{path.suffix}"))
        for path in (self.checkpoint.directory / TEMPLATES).glob("*.jinja"):
            (output / TEMPLATES).mkdir(exist_ok=True)
            shutil.copyfile(path, output / TEMPLATES / path.name)
        if self.canonical.family.centred and (output / TOKENIZER).exists():
            self.keep_class(output / TOKENIZER_CONFIG)
        return sum(part.bytes for parts in codes.values() for part in parts)

    def keep_class(self, path: Path) -> None:
        """The family is written as another, which must not change how text is read: tokenizer_config.json names the class."""
        with contextlib.suppress(ProgramError):  # a tokenizer that is refused is refused there too
            kind = class_of(carried(self.checkpoint.directory), self.checkpoint.directory.name)
            before = read_json(path, ProgramError) if path.exists() else {}
            name = OLDER if kind == BACKEND else kind
            path.write_text(json.dumps(before | {"tokenizer_class": name}, indent=2) + "\n")

    def stored(self, name: str) -> torch.Tensor:
        """One of the checkpoint's own tensors, in its own type where no adapter changed it."""
        if name in self.own.merged:
            return torch.from_numpy(self.own[name])
        with opened(self.own.files[name]) as file:
            return file.get_tensor(name)

    def others(self, tensors: Mapping[str, F32], codes: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Tensors that are no product's: as the checkpoint has them, where they did not change."""
        if self.canonical.family.centred:
            return {name: torch.from_numpy(tensor) for name, tensor in tensors.items() if name not in codes}
        kept = [name for name in self.canonical.needed if name not in codes]
        result = {name: self.stored(name) for name in kept}
        for name, tensor in tensors.items():
            if tensor.ndim == 1 and not np.array_equal(tensor, self.checkpoint.tensors[name]):
                more = self.canonical.family.one_more and name.endswith("norm.weight")
                result[self.name(name)] = torch.from_numpy(tensor - np.float32(more))
        return result

    def description(self, formats: Mapping[str, Format]) -> dict[str, Any]:
        """config.json."""
        data = dict(self.data)
        if self.canonical.family.centred:  # which of a Llama's biases there are, its own key says
            biases = set(self.config.biases)
            has = {"attention_bias": bool(biases & set("qkvo")), "mlp_bias": bool(biases & {"gate", "up", "down"})}
            data = self.config.to_hf() | has
        data |= {"tie_word_embeddings": False, "weight_group": self.group}
        data |= {key: 1.0 for key in ("residual_multiplier", "logits_scaling") if key in data}  # part of the products
        if self.plain:
            return data | {"torch_dtype": "float32"}
        return data | {"quantization_config": settings(formats, self.group)}
