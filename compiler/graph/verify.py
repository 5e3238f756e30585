"""The graph's checker; runs after every pass."""

from __future__ import annotations

from compiler.graph.ops import Graph, Place
from skipopu.isa.spec import Epilogue


def verify(graph: Graph) -> None:
    """Raises AssertionError naming the operation when the graph is not well formed."""
    written: set[str] = set()
    for op in graph.ops():
        where = f"{op.kind} ({op.note})"
        for value in op.reads:
            assert value.name in written, f"{where} reads {value.name} before anything wrote it"
        written |= {value.name for value in op.writes}
        if op.kind == "matmul" and op.weights is not None:
            weights, source = op.weights, op.reads[0]
            assert source.place in (Place.RESIDUAL, Place.INNER), f"{where} multiplies {source.name}, which is not aligned"
            assert weights.n == source.elements, f"{where}: {weights.n} inputs against {source.elements} elements"
            layers = graph.layers if op in graph.body else 1
            assert len(weights.matrices) == layers, f"{where}: {len(weights.matrices)} matrices for {layers} layers"
            if op.mask is not None:
                asked = layers, source.elements
                assert op.mask.thresholds.shape == asked, f"{where}: thresholds {op.mask.thresholds.shape} for {asked}"
            if op.writes and op.epilogue is not Epilogue.NONE:
                produced = weights.rows // (2 if op.epilogue is Epilogue.GATED else 1)
                stored = sum(v.elements for v in op.writes if v.place is Place.BUFFER)
                assert produced == stored, f"{where}: {produced} results for {stored} elements"
        if op.kind == "adjust":
            assert op.adjust is not None, f"{where} has no operands"
            layers = graph.layers if op in graph.body else 1
            for part in (op.adjust.gains, op.adjust.biases):
                assert [len(v) for v in part] == [op.adjust.elements] * layers, f"{where}: vectors of other sizes"
            for value in (op.reads[0], op.writes[0]):
                assert op.adjust.first + op.adjust.elements <= value.elements, f"{where}: {value.name} is shorter"
