"""Numbers that the machine's formats do not hold, found before anything is rounded to them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from compiler.follow import Follow, unseen
from compiler.frontend.checkpoint import Checkpoint
from compiler.frontend.tensors import F32, rows_of
from compiler.graph.matrix import Matrix
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
    "router_hidden": ("router_attention.hidden_layer", "router_mlp.hidden_layer"),
    "router": ("router_attention.weight_predictor", "router_mlp.weight_predictor"),
}
Examined = tuple[str, str, Matrix]  # product, the tensor's name, its rows with norm gains folded in
LARGEST = float(fp16.LARGEST)
COARSE = 2.0**-20  # FP16 scales below have 4 bits or fewer
VANISHING = 2.0**-25  # what FP16 rounds to 0, and all below


def examine(rows: list[Examined], checkpoint: Checkpoint, formats: Mapping[str, Format], follow: Follow = unseen) -> list[str]:
    """Sentences about tensors that lose most of their precision, or whose results may saturate.

    Reads them all, some rows at a time; ``formats`` are the products'.

    Raises:
        CheckpointError: a tensor, with norm gains folded in, that FP32 or FP16 does not hold, or that would become zero.
    """
    config, found = checkpoint.config, []
    table = Matrix((rows_of(checkpoint.tensors, "model.embed_tokens.weight"),))
    if (largest := table.largest()) > LARGEST:
        raise CheckpointError(f"tensor model.embed_tokens.weight holds {largest:.3g}; FP16 embeddings reach {LARGEST:g}")
    if 0 < largest < COARSE:
        if largest <= VANISHING:
            raise CheckpointError(f"tensor model.embed_tokens.weight becomes zero in FP16: its largest number is {largest:.3g}")
        found.append(f"tensor model.embed_tokens.weight loses its precision: its largest number is {largest:.3g}, in FP16")
    for name, tensor, matrix in follow("examining", rows):
        # Of a code and of its scale: routers have two digits, the upper one's scale is 16 times the lower's.
        least = SPLIT_FULL if name == "router" else formats[name].full
        largest = matrix.largest()
        if not largest <= INT4.largest_weight:  # of every format the least; NaN too
            raise CheckpointError(
                f"tensor {tensor} holds {largest:.3g} with norm gains folded in; {INT4.full} times an FP16 scale reaches"
                f" {INT4.largest_weight:.3g}"
            )
        if 0 < largest < least * COARSE:
            if largest <= least * VANISHING:
                raise CheckpointError(
                    f"tensor {tensor} becomes zero, with norm gains folded in its largest number is {largest:.3g}:"
                    f" FP16 scales end at {least * VANISHING:.2g}"
                )
            found.append(
                f"tensor {tensor} loses its precision, with norm gains folded in its largest number is {largest:.3g}: FP16 scales"
                f" keep four bits or fewer below {least * COARSE:.2g}"
            )
        if name == "kv" and (reach := _reach(config, checkpoint.tensors, tensor, matrix)) > LARGEST:
            found.append(
                f"products of tensor {tensor} can reach {reach:.3g}; keys and values are FP16 and saturate at {LARGEST:g}"
            )
    return found


def _reach(config: ModelConfig, tensors: Mapping[str, F32], name: str, matrix: Matrix) -> float:
    """What keys, or values, of the product with tensor ``name`` do not exceed; 0 where nothing is known of its input."""
    bias = tensors[name.replace(".weight", ".bias")] if name.split(".")[-2][0] in config.biases else np.zeros(1)
    if config.qk_norm and "k_proj" in name:
        gain = tensors[name.replace("k_proj", "k_norm")]
        return float(np.abs(gain).max()) * math.sqrt(len(gain))
    if not config.pre_norm:
        return 0.0
    # |w . x| <= |w| |x|, and a normalised x has sqrt(hidden) at most.
    lengths = np.concatenate([np.linalg.norm(rows.astype(np.float64), axis=1) for rows in matrix.blocks()])
    return float((lengths * math.sqrt(config.hidden_size) + np.abs(bias)).max())


def to_examine(graph: Graph, checkpoint: Checkpoint) -> Iterator[Examined]:
    """Every product's tensors, of a folded graph whose rows are in the checkpoint's order."""
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
                for tensor, part in zip(tensors, matrix.split(len(tensors)), strict=True):
                    yield name, f"model.layers.{layer}.{tensor}.weight", part
