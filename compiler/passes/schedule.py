"""How much of the dataflow is fused: what the study of fusion compares. No result depends on it."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

from compiler.graph.ops import ALIGNED, Graph, Op, Place, Value
from skipopu.isa.registers import SERIAL_ATTENTION, WEIGHTS_ON_DEMAND


class Schedule(IntEnum):
    """Each step keeps those before it."""

    UNFUSED = 0  # every product's input is aligned by a pass of its own
    REDUCTIONS = 1  # one alignment of the residual serves the norm, the routers and Q, K, V
    EPILOGUES = 2  # results are aligned on their way out of the product, the sum of squares with them
    ATTENTION = 3  # scores, probabilities and weighted values overlap; divisions follow one another
    RUN_AHEAD = 4  # weights are requested up to the next routing decision

    @property
    def register(self) -> int:
        """Config.SCHEDULE."""
        on_demand = WEIGHTS_ON_DEMAND if self < Schedule.RUN_AHEAD else 0
        serial = SERIAL_ATTENTION if self < Schedule.ATTENTION else 0
        return on_demand | serial


def schedule(graph: Graph, level: Schedule) -> Graph:
    """Takes alignments out of the operations that write their values, down to ``level``."""
    if level >= Schedule.EPILOGUES:
        return graph

    def split(ops: list[Op]) -> list[Op]:
        result: list[Op] = []
        for op in ops:
            aligned = next((v for v in op.reads if v.place is Place.RESIDUAL), None)
            if level < Schedule.REDUCTIONS and aligned is not None and not whole:
                result.append(align(sources[aligned], aligned, op))
            kept = tuple(v for v in op.writes if v.place not in ALIGNED or op.kind in ("embed", "align"))
            result.append(replace(op, writes=kept))
            for source, target in zip(op.writes, op.writes[1:], strict=False):
                if target in kept or (target.place is Place.RESIDUAL and level < Schedule.REDUCTIONS and not whole):
                    continue
                result.append(align(source, target, op))
        return result

    # A layer whose modules read the same residual aligns it itself, at its end: between them it is another one.
    whole = any(op.kind == "align" for op in graph.body)
    sources = {aligned: source for op in graph.ops() for source, aligned in zip(op.writes, op.writes[1:], strict=False)}
    return Graph(split(graph.prologue), split(graph.body), split(graph.epilogue), graph.layers)


def align(source: Value, target: Value, op: Op) -> Op:
    """A pass over ``source`` for the tokens of ``op``."""
    return Op(
        "align", f"align {source.name}", op.tokens, (source, *(v for v in op.reads if v.place is Place.DISPATCH)), (target,)
    )
