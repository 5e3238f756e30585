"""What a GGUF file says of its model, as a ``config.json`` would, and where its tensors are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skipopu.accept import INTEGER, number, one_of, shown
from skipopu.errors import CheckpointError
from skipopu.rope import THETA

SUFFIX = ".gguf"
ARCHITECTURES = ("llama", "qwen2", "qwen3")
# Keys behind the architecture's name, and config.json's; None where others say the same.
KEYS: dict[str, str | None] = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "vocab_size": None,
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": None,
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "rope.dimension_count": None,
}
FREQUENCIES = "rope_freqs.weight"
FACTOR = number(0, 1e6)
BLOCKS = {"Q4_0": 32, "Q8_0": 32}  # elements that share a scale
TYPES = ("F32", "F16", "BF16", *BLOCKS)


@dataclass(frozen=True)
class Entry:
    """A tensor: its number format by GGML's name, its shape, and where its bytes begin."""

    kind: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class GgufFile:
    """``config`` has config.json's keys, ``tensors`` are called as in the file."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Entry]


def read(path: Path) -> GgufFile:
    """Reads a file's metadata; its tensors are not.

    Raises:
        CheckpointError: no such file, not a readable one, or of a model that is not known; the package gguf is not there.
    """
    try:
        from gguf import GGUFReader  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise CheckpointError(f"{path}: the package gguf is not installed; pip install 'skipopu[gguf]' brings it") from None
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        reader = GGUFReader(path)
        values = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("tokenizer.ggml.")}
        tokens = reader.fields.get("tokenizer.ggml.tokens")
        eos = reader.fields.get("tokenizer.ggml.eos_token_id")
        end, vocabulary = eos and eos.contents(), tokens and len(tokens.data)
        tensors = {
            t.name: Entry(t.tensor_type.name, tuple(int(size) for size in reversed(t.shape)), int(t.data_offset))
            for t in reader.tensors
        }
        frequencies = next((np.array(t.data, np.float64) for t in reader.tensors if t.name == FREQUENCIES), None)
    except Exception as reason:  # whatever NumPy and the package make of damaged bytes
        raise CheckpointError(f"{path}: not a readable GGUF file ({' '.join(str(reason).split())})") from None
    return GgufFile(path, _config(path, values, tensors, end, vocabulary, frequencies), tensors)


def _config(
    path: Path, values: dict[str, Any], tensors: dict[str, Entry], end: Any, vocabulary: int | None, frequencies: Any
) -> dict[str, Any]:
    architecture = values.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise CheckpointError(f"{path}: general.architecture is {shown(architecture)}; accepted: {', '.join(ARCHITECTURES)}")
    own = {key.removeprefix(f"{architecture}."): value for key, value in values.items() if key.startswith(f"{architecture}.")}
    scaling, factor = own.pop("rope.scaling.type", "linear"), own.pop("rope.scaling.factor", 1.0)
    if scaling not in ("none", "linear"):
        raise CheckpointError(f"{path}: {architecture}.rope.scaling.type is {shown(scaling)}; accepted: none, linear")
    FACTOR.check(factor, f"{path}: {architecture}.rope.scaling.factor", CheckpointError)
    factor = 1.0 if scaling == "none" else factor or 1.0  # 0 is none
    for key in sorted(own.keys() - KEYS.keys()):
        raise CheckpointError(f"{path}: {architecture}.{key} is not known; accepted: {', '.join(KEYS)}")
    for key in ("context_length", "attention.layer_norm_rms_epsilon"):
        if key not in own:
            raise CheckpointError(f"{path}: {architecture}.{key} is missing; accepted: a number")
    one_of([0, 1]).check(values.get("split.count", 1), f"{path}: split.count", CheckpointError)
    for key in ("embedding_length", "attention.head_count"):  # which others follow from
        if key in own:
            INTEGER.check(own[key], f"{path}: {architecture}.{key}", CheckpointError)
    data: dict[str, Any] = {name: own[key] for key, name in KEYS.items() if name and key in own}
    data.setdefault("num_key_value_heads", data.get("num_attention_heads"))  # as llama.cpp has it
    head = data.setdefault("head_dim", data.get("hidden_size", 0) // max(1, data.get("num_attention_heads") or 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if own.get(key, head) != head:
            raise CheckpointError(f"{path}: {architecture}.{key} is {own[key]}; accepted: {head}, the length of a head's keys")
    embedding = tensors.get("token_embd.weight")
    data |= {
        "model_type": architecture,
        "vocab_size": embedding.shape[0] if embedding else own.get("vocab_size", vocabulary or 0),
        "tie_word_embeddings": "output.weight" not in tensors,
        "eos_token_id": end,
    }
    if architecture != "qwen2":
        data["attention_bias"] = "blk.0.attn_q.bias" in tensors
    if factor != 1:
        data["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    if frequencies is not None:
        if architecture != "llama":
            raise CheckpointError(f"{path}: tensor {FREQUENCIES} is not known of {architecture}; accepted: those of its layers")
        THETA.check(data.get("rope_theta"), f"{path}: {architecture}.rope.freq_base", CheckpointError)
        # Llama 3's rotary table: what each of its frequencies is divided by.
        base = data.get("rope_theta", 10000.0) ** (-np.arange(head // 2) / max(1, head // 2))
        if len(frequencies) != head // 2:
            raise CheckpointError(f"{path}: tensor {FREQUENCIES} has {len(frequencies)} elements; accepted: {head // 2}")
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            data["skipopu"] = {"rope": [{"frequencies": (base / frequencies / factor).tolist(), "factor": 1.0}]}
    if groups := {BLOCKS[held.kind] for held in tensors.values() if held.kind in BLOCKS}:
        data["weight_group"] = max(groups)
    return data
