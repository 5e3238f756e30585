"""Reads a Hugging Face checkpoint directory and SkipGPT routers into float32 arrays."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from compiler.frontend.tensors import F32, Tensors, rows_of
from skipopu.accept import MAPPING, TEXT, read_json, shown
from skipopu.errors import CheckpointError
from skipopu.model_config import ModelConfig

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
    """Tensors of a model under Hugging Face's names, which may be read when they are asked for; routers[layer] is (attention, FFN), or None for a dense model.

    ``outline``: shapes alone count; see :mod:`compiler.frontend.shapes`. ``router_hidden`` is the width of the hidden layer of
    its two-layer routers, 0 for linear ones.
    """

    directory: Path
    config: ModelConfig
    tensors: Mapping[str, F32]
    routers: list[tuple[Router, Router]] | None
    outline: bool = False
    router_hidden: int = 0


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file. It is mapped while it is open or an array of it is alive: what was read of it counts as used memory."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None


def _read_safetensors(paths: list[Path]) -> Tensors:
    """Tensors of floating-point numbers as finite float32; of others, nothing can be known without their scales."""
    shapes: dict[str, tuple[int, ...]] = {}
    path_of: dict[str, Path] = {}
    for path in paths:
        with _opened(path) as file:
            names = list(file.keys())
            for name in names:
                held = file.get_slice(name)
                if (kind := held.get_dtype()) not in FLOATS:
                    raise CheckpointError(
                        f"{path}: tensor {name} holds {kind}; accepted: {', '.join(FLOATS)} (quantised checkpoints are not read)"
                    )
                shapes[name], path_of[name] = tuple(held.get_shape()), path

    def read(name: str, rows: slice) -> F32:
        with _opened(path_of[name]) as file:
            values = (file.get_slice(name)[rows] if shapes[name] else file.get_tensor(name)).float().numpy()
        if not np.isfinite(values).all():
            raise CheckpointError(f"{path_of[name]}: tensor {name} holds NaN, infinity, or a number beyond FP32")
        return values

    return Tensors(shapes, read)


def _read_routers(path: Path) -> dict[str, F32]:
    """Whole: routers are small."""
    if path.suffix == ".safetensors":
        tensors = dict(_read_safetensors([path]))
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


def _require(shapes: Mapping[str, tuple[int, ...]], name: str, shape: tuple[int, ...], where: Path) -> None:
    """Raises CheckpointError unless a tensor is there in its ``shape``."""
    found = shapes.get(name)
    if found is None:
        raise CheckpointError(f"{where}: tensor {name} is missing; a tensor of shape {shape} is needed")
    if found != shape:
        raise CheckpointError(f"{where}: tensor {name} has shape {found}; config.json asks for {shape}")


def _take(tensors: dict[str, F32], name: str, shape: tuple[int, ...], where: Path) -> F32:
    _require({name: tensor.shape for name, tensor in tensors.items()}, name, shape, where)
    if not np.isfinite(tensor := tensors[name]).all():
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


def _refuse_extra(config: ModelConfig, found: Tensors, known: Container[str], where: Path) -> None:
    """Raises CheckpointError for a tensor that would change the model and that nothing reads."""
    for name in found:
        if name in known or name.endswith("rotary_emb.inv_freq"):
            continue
        if name == "lm_head.weight" and config.tie_word_embeddings:
            if _same(found, name, "model.embed_tokens.weight"):
                continue
            raise CheckpointError(f"{where}: tensor {name} differs from the embedding; config.json says tie_word_embeddings")
        raise CheckpointError(
            f"{where}: tensor {name} is not known; accepted: those of a {config.num_layers}-layer Llama without biases,"
            f" routers in {ROUTERS_FILE}"
        )


def _same(tensors: Tensors, first: str, second: str) -> bool:
    """Whether two tensors are equal."""
    size = tensors.shapes[first]
    step = max(1, (1 << 22) // max(1, size[-1])) if size else 1
    return size == tensors.shapes[second] and all(
        np.array_equal(tensors.read(second, rows), tensors.read(first, rows))
        for rows in (slice(row, row + step) for row in range(0, size[0], step))
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


def centred(config: ModelConfig, tensors: Mapping[str, F32]) -> tuple[ModelConfig, Tensors]:
    """An RMSNorm model that equals a LayerNorm model without parameters.

    LayerNorm(h) = RMSNorm(h - mean(h)), and the mean is linear in what is added to the residual stream: taking it out of
    the embedding's rows and out of the columns of O and down leaves a stream without mean. Routers read that stream.
    """
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    source = {head: embedding} if config.tie_word_embeddings else {}
    config = dataclasses.replace(config, norm="rms", tie_word_embeddings=False)
    shapes = expected_shapes(config)
    means: dict[str, NDArray[np.float64]] = {}  # of columns, which take a whole tensor

    def read(name: str, rows: slice) -> F32:
        if name not in tensors and name not in source:
            return np.ones(shapes[name], np.float32)[rows]
        values = rows_of(tensors, source.get(name, name))[rows]
        if name == embedding:
            return without(values.mean(1, keepdims=True, dtype=np.float64), values)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            if name not in means:
                means[name] = tensors[name].mean(0, keepdims=True, dtype=np.float64)
            return without(means[name], values)
        return values

    return config, Tensors(shapes, read)


def without(mean: NDArray[np.float64], values: F32) -> F32:
    """``values`` less their ``mean``, taken in float64."""
    return (values - mean).astype(np.float32)


def load(directory: Path, routers: Path | None = None) -> Checkpoint:
    """Reads config.json and the routers (``routers.safetensors`` unless given), and what *.safetensors (sharded or not) hold.

    The tensors' numbers are read when they are asked for.

    Raises:
        CheckpointError: naming the file and tensor; where numbers are not finite, when they are read.
    """
    directory = Path(directory)
    if (adapter := directory / ADAPTER_FILE).exists():
        raise CheckpointError(f"{adapter}: an adapter's weights are not read; merge it into the model and remove the file")
    config = ModelConfig.load(directory)
    files = _files(directory)
    found, where = _read_safetensors(files), files[0]
    shapes = expected_shapes(config)
    for name, shape in shapes.items():
        _require(found.shapes, name, shape, where)
    _refuse_extra(config, found, shapes, where)
    tensors = Tensors(shapes, found.read)
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
