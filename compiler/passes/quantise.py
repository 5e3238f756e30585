"""Rounds weights to groups of the chosen format, to nearest; routers to two INT4 digits."""

from __future__ import annotations

import numpy as np

from compiler.graph.ops import Graph
from skipopu.errors import CheckpointError
from skipopu.numerics.formats import INT4, Format, quantise_split

LARGEST = INT4.largest_weight  # of every format the least; the routers' upper digits are INT4, too


def quantise(graph: Graph, group: int, weights: Format) -> Graph:
    for op in graph.ops():
        if op.weights is not None:
            if op.weights.split:
                rule = quantise_split
            else:
                op.weights.format = weights
                rule = weights.quantise
            for layer, matrix in enumerate(op.weights.matrices):
                if (largest := float(np.abs(matrix).max())) > LARGEST:
                    where = f"weights {op.weights.name}" + (f" of layer {layer}" if len(op.weights.matrices) > 1 else "")
                    raise CheckpointError(
                        f"{where}, with norm gains folded in: the largest is {largest:.3g}; an FP16 scale per group reaches {LARGEST:.3g}"
                    )
            pairs = [rule(matrix, group) for matrix in op.weights.matrices]
            op.weights.codes = [q for q, _ in pairs]
            op.weights.scales = [scale for _, scale in pairs]
    return graph
