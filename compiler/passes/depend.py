"""Sets the dependence tokens between units.

Neighbouring operations on different units are chained: the first pushes, the second pops. That orders all operations
totally; weight fetching runs ahead of it. The layer loop closes the chain from its last operation to its first, so the
prologue ends with an empty operation on the last one's unit that supplies the first iteration.
"""

from __future__ import annotations

import itertools

from compiler.graph.ops import Graph, Op
from skipopu.isa.spec import TokenList


def depend(graph: Graph) -> Graph:
    last, first = graph.body[-1], graph.body[0]
    if last.unit is not first.unit:
        graph.prologue.append(Op(last.kind, "start the layers' dependence chain", TokenList.ALL))
    chain = list(graph.ops())
    for before, after in itertools.pairwise(chain):
        if before.unit is not after.unit:
            before.push |= 1 << after.unit
            after.pop |= 1 << before.unit
    return graph
