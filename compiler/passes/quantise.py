"""Rounds weights to groups of the chosen format, to nearest; routers to two INT4 digits."""

from __future__ import annotations

from compiler.graph.ops import Graph
from skipopu.isa.spec import WeightFormat
from skipopu.numerics import int4, int8


def quantise(graph: Graph, group: int, weights: WeightFormat) -> Graph:
    for op in graph.ops():
        if op.weights is not None:
            if op.weights.split:
                rule = int4.quantise_split
            else:
                op.weights.format = weights
                rule = int8.quantise if weights is WeightFormat.INT8 else int4.quantise
            pairs = [rule(matrix, group) for matrix in op.weights.matrices]
            op.weights.codes = [q for q, _ in pairs]
            op.weights.scales = [scale for _, scale in pairs]
    return graph
