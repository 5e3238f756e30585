"""AWQ's scales (Lin et al., 2023): columns that read large inputs are made larger, and the rows that make those inputs smaller.

Rows of V make what columns of O read, those of up what columns of down read, the activation of gate only multiplies it. Rows are
quantised alike whatever they are multiplied by: all that changes is what the columns lose. Queries share the values of their
group, and a token that skips attention shows a layer the values of the layer before: the scales of values are one set for all
layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.quantise.choose import objective
from compiler.quantise.nearest import grid_of, nearest, padded
from compiler.quantise.products import tensor_of
from skipopu.model_config import ModelConfig
from skipopu.numerics.formats import Format
from skipopu.numerics.fp32 import F32, F64

POWERS = np.linspace(0, 1, 21)  # of the inputs' size, tried


def search(parts: Sequence[tuple[F32, F64]], group: int, format: Format, shared: int, repeat: int = 1) -> F64:
    """Factors (n,) of the columns of all ``parts``, each weights (rows, n) and moments X^T X (n, n) of its inputs.

    ``n`` columns are heads of ``shared`` ones; ``repeat`` neighbouring heads have the same factors.
    """
    sizes = np.sqrt(np.mean([moments.diagonal() / max(moments.trace(), 1e-300) for _, moments in parts], 0))
    heads = np.sqrt(np.square(sizes.reshape(-1, repeat, shared)).mean(1, keepdims=True))
    heads = np.maximum(heads, heads.max() * 1e-4 or 1.0)  # of what nothing was seen, little is known
    size = np.broadcast_to(heads, (heads.shape[0], repeat, shared)).reshape(-1)
    best, found = np.inf, np.ones(len(size))
    for power in POWERS:
        factors = size**power / np.exp(np.log(size**power).mean())
        loss = 0.0
        for weight, moments in parts:
            n = weight.shape[1]
            wide = padded(weight * factors, -(-n // group) * group)
            _, grid = grid_of(wide, group, format)
            error = (nearest(wide, grid, format) * grid.steps)[:, :n] / factors - weight
            loss += objective(error, moments).sum() / max(objective(weight.astype(np.float64), moments).sum(), 1e-300)
        if loss < best:
            best, found = loss, factors
    return found


def move(tensors: dict[str, F32], layer: int, rows: str, columns: str, factors: F64, of_rows: F64) -> None:
    """Multiplies columns of a product by ``factors`` and divides the rows that it reads, and their bias, by ``of_rows``."""
    tensors[tensor_of(columns, layer)] *= factors.astype(np.float32)
    name = tensor_of(rows, layer)
    tensors[name] /= of_rows.astype(np.float32)[:, None]
    if (bias := name.removesuffix("weight") + "bias") in tensors:
        tensors[bias] /= of_rows.astype(np.float32)


def share_values(config: ModelConfig, tensors: dict[str, F32], moments: Sequence[F64], group: int, format: Format) -> None:
    """Moves factors between O and V of all layers; ``moments`` of what each layer's O reads."""
    parts = [(tensors[tensor_of("o", layer)], moments[layer]) for layer in range(config.num_layers)]
    factors = search(parts, group, format, config.head_dim, config.queries_per_kv_head)
    of_rows = factors.reshape(config.num_kv_heads, -1, config.head_dim)[:, 0].reshape(-1)
    for layer in range(config.num_layers):
        move(tensors, layer, "v", "o", factors, of_rows)


def share_inner(tensors: dict[str, F32], layer: int, moments: F64, group: int, format: Format) -> F64:
    """Moves factors (ffn,) between down and up of a layer with a gate, and returns them; ``moments`` of what down reads."""
    weight = tensors[tensor_of("down", layer)]
    factors = search([(weight, moments)], group, format, weight.shape[1])
    move(tensors, layer, "up", "down", factors, factors)
    return factors
