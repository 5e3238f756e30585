"""Rounds weights to groups of the chosen format, to nearest; routers to two INT4 digits."""

from __future__ import annotations

import numpy as np

from compiler.graph.ops import Graph
from skipopu.errors import CheckpointError
from skipopu.isa.spec import WeightFormat
from skipopu.numerics import fp16, int4, int8

LARGEST = 7 * float(fp16.LARGEST)  # of a weight: INT4 codes reach 7 in both directions, as do the routers' upper digits


def quantise(graph: Graph, group: int, weights: WeightFormat) -> Graph:
    for op in graph.ops():
        if op.weights is not None:
            if op.weights.split:
                rule = int4.quantise_split
            else:
                op.weights.format = weights
                rule = int8.quantise if weights is WeightFormat.INT8 else int4.quantise
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
