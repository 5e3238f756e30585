"""Reads a Hugging Face checkpoint directory and SkipGPT routers into float32 arrays."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from skipopu.errors import CheckpointError
from skipopu.model_config import ModelConfig

F32 = NDArray[np.float32]
ROUTERS_FILE = "routers.safetensors"


@dataclass(frozen=True)
class Router:
    """Difference form of a linear router: executes when h . weight + bias >= the dial. weight (hidden,) float32."""

    weight: F32
    bias: float


@dataclass
class Checkpoint:
    """Tensors of a model under Hugging Face's names; routers[layer] is (attention, FFN), or None for a dense model.

    ``outline``: shapes alone count; see :mod:`compiler.frontend.shapes`. ``router_hidden`` is the width of the hidden layer of
    its two-layer routers, 0 for linear ones.
    """

    directory: Path
    config: ModelConfig
    tensors: dict[str, F32]
    routers: list[tuple[Router, Router]] | None
    outline: bool = False
    router_hidden: int = 0


def _read_safetensors(path: Path) -> dict[str, F32]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).float().numpy() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None


def _read_routers(path: Path) -> dict[str, F32]:
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    else:
        import torch

        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such file") from None
        except Exception as error:
            raise CheckpointError(f"{path}: not a readable PyTorch file of tensors ({error})") from None
        tensors = {name: tensor.float().numpy() for name, tensor in loaded.items()}
    # PEFT puts a prefix before the model's own names.
    return {name[name.find("model.layers.") :]: tensor for name, tensor in tensors.items()}


def _take(tensors: dict[str, F32], name: str, shape: tuple[int, ...], where: Path) -> F32:
    tensor = tensors.get(name)
    if tensor is None:
        raise CheckpointError(f"{where}: tensor {name} is missing; a tensor of shape {shape} is needed")
    if tensor.shape != shape:
        raise CheckpointError(f"{where}: tensor {name} has shape {tensor.shape}; config.json asks for {shape}")
    if not np.isfinite(tensor).all():
        raise CheckpointError(f"{where}: tensor {name} holds NaN or infinity")
    return tensor


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama checkpoint's tensors."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    gains = ["model.norm"]
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "self_attn.q_proj.weight": (queries, hidden),
            prefix + "self_attn.k_proj.weight": (keys, hidden),
            prefix + "self_attn.v_proj.weight": (keys, hidden),
            prefix + "self_attn.o_proj.weight": (hidden, queries),
            prefix + "mlp.gate_proj.weight": (ffn, hidden),
            prefix + "mlp.up_proj.weight": (ffn, hidden),
            prefix + "mlp.down_proj.weight": (hidden, ffn),
        }
        gains += [prefix + "input_layernorm", prefix + "post_attention_layernorm"]
    if config.norm == "rms":
        shapes |= {f"{name}.weight": (hidden,) for name in gains}
    return shapes


def centred(config: ModelConfig, tensors: dict[str, F32]) -> tuple[ModelConfig, dict[str, F32]]:
    """An RMSNorm model that equals a LayerNorm model without parameters.

    LayerNorm(h) = RMSNorm(h - mean(h)), and the mean is linear in what is added to the residual stream: taking it out of
    the embedding's rows and out of the columns of O and down leaves a stream without mean. Routers read that stream.
    """
    result = dict(tensors)
    head = tensors["model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"]
    result["lm_head.weight"] = head
    result["model.embed_tokens.weight"] = without_mean(tensors["model.embed_tokens.weight"], 1)
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            result[name] = without_mean(tensor, 0)
    config = dataclasses.replace(config, norm="rms", tie_word_embeddings=False)
    ones = {name: np.ones(shape, np.float32) for name, shape in expected_shapes(config).items() if name not in result}
    return config, result | ones


def without_mean(tensor: F32, axis: int) -> F32:
    """``tensor`` less its mean along ``axis``, taken in float64."""
    return (tensor - tensor.mean(axis, keepdims=True, dtype=np.float64)).astype(np.float32)


def load(directory: Path, routers: Path | None = None) -> Checkpoint:
    """Reads config.json, *.safetensors (sharded or not) and the routers (``routers.safetensors`` unless given).

    Raises:
        CheckpointError: naming the file and tensor.
    """
    directory = Path(directory)
    config = ModelConfig.load(directory)
    index = directory / "model.safetensors.index.json"
    files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
    found: dict[str, F32] = {}
    for file in files:
        found |= _read_safetensors(directory / file)
    where = directory / files[0]
    tensors = {name: _take(found, name, shape, where) for name, shape in expected_shapes(config).items()}
    if extra := [n for n in found if n not in tensors and n.endswith("bias")]:
        raise CheckpointError(f"{where}: tensor {extra[0]} is not supported; Llama has no biases")
    if config.norm == "layer":
        config, tensors = centred(config, tensors)
    path = routers if routers is not None else directory / ROUTERS_FILE
    if routers is None and not path.exists():
        return Checkpoint(directory, config, tensors, None)
    table = _read_routers(path)
    if two_layer := [n for n in table if "hidden_layer" in n]:
        raise CheckpointError(f"{path}: tensor {two_layer[0]} belongs to a two-layer router; linear routers are supported")
    layers: list[tuple[Router, Router]] = []
    for layer in range(config.num_layers):
        both: list[Router] = []
        for module in ("attention", "mlp"):
            prefix = f"model.layers.{layer}.router_{module}.weight_predictor."
            weight = _take(table, prefix + "weight", (2, config.hidden_size), path)
            bias = _take(table, prefix + "bias", (2,), path)
            both.append(Router(weight[0] - weight[1], float(bias[0] - bias[1])))
        layers.append((both[0], both[1]))
    if f"model.layers.{config.num_layers}.router_mlp.weight_predictor.weight" in table:
        raise CheckpointError(f"{path}: routers for more than the model's {config.num_layers} layers")
    return Checkpoint(directory, config, tensors, layers)
