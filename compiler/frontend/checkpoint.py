"""Reads a Hugging Face checkpoint directory and SkipGPT routers into float32 arrays."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from skipopu.accept import MAPPING, TEXT, read_json, shown
from skipopu.errors import CheckpointError
from skipopu.model_config import ModelConfig

F32 = NDArray[np.float32]
ROUTERS_FILE = "routers.safetensors"
ROUTER_NAME = re.compile(r"model\.layers\.(\d+)\.router_")
ADAPTER_FILE = "adapter_config.json"
FLOATS = ("F64", "F32", "F16", "BF16")


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
    """Tensors of floating-point numbers as float32; of others, nothing can be known without their scales."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            for name in names:
                if (held := file.get_slice(name).get_dtype()) not in FLOATS:
                    raise CheckpointError(
                        f"{path}: tensor {name} holds {held}; accepted: {', '.join(FLOATS)} (quantised checkpoints are not read)"
                    )
            return {name: file.get_tensor(name).float().numpy() for name in names}
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
            raise CheckpointError(f"{path}: not a readable PyTorch file of tensors ({' '.join(str(error).split())})") from None
        MAPPING.check(loaded, f"{path}: the content", CheckpointError)
        for name, tensor in loaded.items():
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                raise CheckpointError(f"{path}: entry {name} is {shown(tensor)}; accepted: a tensor of floating-point numbers")
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
        raise CheckpointError(f"{where}: tensor {name} holds NaN, infinity, or a number beyond FP32")
    return tensor


def _files(directory: Path) -> list[Path]:
    """The files of a checkpoint's tensors: model.safetensors, or else the shards that an index names."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.exists() or not index.exists():
        return [single]
    table = read_json(index, CheckpointError).get("weight_map")
    if not MAPPING.holds(table) or not table or not all(map(TEXT.holds, table.values())):
        raise CheckpointError(f"{index}: weight_map is {shown(table)}; accepted: a mapping of tensors to files")
    return [directory / name for name in sorted(set(table.values()))]


def _refuse_extra(config: ModelConfig, found: dict[str, F32], known: dict[str, F32], where: Path) -> None:
    """Raises CheckpointError for a tensor that would change the model and that nothing reads."""
    for name, tensor in found.items():
        if name in known or name.endswith("rotary_emb.inv_freq"):
            continue
        if name == "lm_head.weight" and config.tie_word_embeddings:
            if np.array_equal(tensor, known["model.embed_tokens.weight"]):
                continue
            raise CheckpointError(f"{where}: tensor {name} differs from the embedding; config.json says tie_word_embeddings")
        raise CheckpointError(
            f"{where}: tensor {name} is not known; accepted: those of a {config.num_layers}-layer Llama without biases,"
            f" routers in {ROUTERS_FILE}"
        )


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
    if (adapter := directory / ADAPTER_FILE).exists():
        raise CheckpointError(f"{adapter}: an adapter's weights are not read; merge it into the model and remove the file")
    config = ModelConfig.load(directory)
    files = _files(directory)
    found: dict[str, F32] = {}
    for file in files:
        found |= _read_safetensors(file)
    where = files[0]
    tensors = {name: _take(found, name, shape, where) for name, shape in expected_shapes(config).items()}
    _refuse_extra(config, found, tensors, where)
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
            with np.errstate(over="ignore"):
                difference, offset = weight[0] - weight[1], bias[0] - bias[1]
            for name, values in (("weight", difference), ("bias", offset)):
                if not np.isfinite(values).all():
                    raise CheckpointError(f"{path}: the rows of tensor {prefix}{name} differ by more than FP32 holds")
            both.append(Router(difference, float(offset)))
        layers.append((both[0], both[1]))
    for name in table:
        if (match := ROUTER_NAME.match(name)) and int(match[1]) >= config.num_layers:
            raise CheckpointError(f"{path}: tensor {name} is of a layer beyond the model's {config.num_layers}")
    return Checkpoint(directory, config, tensors, layers)
