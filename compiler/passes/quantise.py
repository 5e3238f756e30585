"""Rounds weights to INT4 groups, to nearest; routers to two INT4 digits."""

from __future__ import annotations

from compiler.graph.ops import Graph
from skipopu.numerics import int4


def quantise(graph: Graph, group: int) -> Graph:
    for op in graph.ops():
        if op.weights is not None:
            rule = int4.quantise_split if op.weights.split else int4.quantise
            pairs = [rule(matrix, group) for matrix in op.weights.matrices]
            op.weights.codes = [q for q, _ in pairs]
            op.weights.scales = [scale for _, scale in pairs]
    return graph
