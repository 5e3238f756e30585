"""Rounds weights to groups of the chosen format, to nearest; routers to two INT4 digits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.tensors import F32
from compiler.graph.ops import Graph, Weights
from skipopu.numerics.formats import Format, quantise_split


def quantise(graph: Graph, weights: Format) -> Graph:
    """Chooses the format of all products but the routers'; :func:`rounded` makes the codes where they are placed."""
    for op in graph.ops():
        if op.weights is not None and not op.weights.split:
            op.weights.format = weights
    return graph


def rounded(weights: Weights, rows: F32, group: int) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Codes (rows, groups, group) and scales (rows, groups) of some rows of a matrix; two rows for each that is split."""
    return quantise_split(rows, group) if weights.split else weights.format.quantise(rows, group)
