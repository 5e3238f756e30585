"""Numbers that the machine's formats do not hold, found before anything is rounded to them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.checkpoint import Checkpoint
from compiler.graph.ops import Graph
from skipopu.errors import CheckpointError
from skipopu.model_config import ModelConfig
from skipopu.numerics import fp16
from skipopu.numerics.formats import INT4, SPLIT_FULL, Format

# The checkpoint's tensors in the rows of a product.
LAYER_TENSORS = {
    "kv": ("self_attn.k_proj", "self_attn.v_proj"),
    "q": ("self_attn.q_proj",),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "up": ("mlp.up_proj",),
    "down": ("mlp.down_proj",),
    "router": ("router_attention.weight_predictor", "router_mlp.weight_predictor"),
}
LARGEST = float(fp16.LARGEST)
COARSE = 2.0**-20  # FP16 scales below have 4 bits or fewer


def examine(graph: Graph, checkpoint: Checkpoint, weights: Format) -> list[str]:
    """Sentences about tensors of a folded graph that lose most of their precision, or whose results may saturate.

    Raises:
        CheckpointError: a tensor, with norm gains folded in, that FP32 or FP16 does not hold.
    """
    config, found = checkpoint.config, []
    table = checkpoint.tensors["model.embed_tokens.weight"]
    if (largest := float(np.abs(table).max())) > LARGEST:
        raise CheckpointError(f"tensor model.embed_tokens.weight holds {largest:.3g}; FP16 embeddings reach {LARGEST:g}")
    if 0 < largest < COARSE:
        found.append(f"tensor model.embed_tokens.weight loses its precision: its largest number is {largest:.3g}, in FP16")
    for name, tensor, matrix in _folded(graph, checkpoint):
        # Of a code and of its scale: routers have two digits, the upper one's scale is 16 times the lower's.
        full, least = (INT4.full, SPLIT_FULL) if name == "router" else (weights.full, weights.full)
        largest = float(np.abs(matrix).max())
        if not largest <= full * LARGEST:  # NaN too
            raise CheckpointError(
                f"tensor {tensor} holds {largest:.3g} with norm gains folded in; {full} times an FP16 scale reaches {full * LARGEST:.3g}"
            )
        if 0 < largest < least * COARSE:
            found.append(
                f"tensor {tensor} loses its precision, with norm gains folded in its largest number is {largest:.3g}: FP16 scales"
                f" keep four bits or fewer below {least * COARSE:.2g}"
            )
        if name == "kv" and (reach := _reach(config, checkpoint.tensors, tensor, matrix)) > LARGEST:
            found.append(
                f"products of tensor {tensor} can reach {reach:.3g}; keys and values are FP16 and saturate at {LARGEST:g}"
            )
    return found


def _reach(config: ModelConfig, tensors: Mapping[str, NDArray[np.float32]], name: str, matrix: NDArray[np.float32]) -> float:
    """What keys, or values, of the product with tensor ``name`` do not exceed; 0 where nothing is known of its input."""
    bias = tensors[name.replace(".weight", ".bias")] if name.split(".")[-2][0] in config.biases else np.zeros(1)
    if config.qk_norm and "k_proj" in name:
        gain = tensors[name.replace("k_proj", "k_norm")]
        return float(np.abs(gain).max()) * math.sqrt(len(gain))
    if not config.pre_norm:
        return 0.0
    # |w . x| <= |w| |x|, and a normalised x has sqrt(hidden) at most.
    rows = np.linalg.norm(matrix.astype(np.float64), axis=1) * math.sqrt(config.hidden_size)
    return float((rows + np.abs(bias)).max())


def _folded(graph: Graph, checkpoint: Checkpoint) -> Iterator[tuple[str, str, NDArray[np.float32]]]:
    """(product, tensor's name, its rows) of every product in the checkpoint's order of rows."""
    head = "model.embed_tokens.weight" if checkpoint.config.tie_word_embeddings else "lm_head.weight"
    for op in graph.ops():
        if op.weights is None:
            continue
        name = op.weights.name
        for layer, matrix in enumerate(op.weights.matrices):
            tensors = LAYER_TENSORS.get(name)
            if tensors is None:
                yield name, head, matrix
            else:
                for tensor, part in zip(tensors, np.split(matrix, len(tensors)), strict=True):
                    yield name, f"model.layers.{layer}.{tensor}.weight", part
