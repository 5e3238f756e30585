"""Puts thresholds in front of the products whose input channels are masked."""

from __future__ import annotations

from compiler.frontend.checkpoint import Checkpoint
from compiler.graph.ops import Graph, Mask
from skipopu.masks import INPUT_OF


def mask(graph: Graph, checkpoint: Checkpoint) -> Graph:
    masks = checkpoint.masks or {}
    for op in graph.body:
        own = INPUT_OF.get(op.weights.name) if op.weights is not None else None
        if own in masks:
            op.mask = Mask(own, masks[own])
    return graph
