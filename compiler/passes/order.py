"""Arranges weight rows so that what the epilogue combines is adjacent."""

from __future__ import annotations

from compiler.frontend.checkpoint import Checkpoint
from compiler.graph.ops import Graph
from skipopu.row_order import permutation


def order(graph: Graph, checkpoint: Checkpoint) -> Graph:
    for op in graph.ops():
        if op.weights is not None:
            rows = permutation(op.weights.order, checkpoint.config, len(op.weights.matrices[0]))
            op.weights.matrices = [matrix[rows] for matrix in op.weights.matrices]
        if (adjust := op.adjust) is not None:
            rows = permutation(adjust.order, checkpoint.config, adjust.elements)
            adjust.gains, adjust.biases = ([vector[rows] for vector in part] for part in (adjust.gains, adjust.biases))
    return graph
