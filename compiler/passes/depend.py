"""Sets the dependence tokens between units.

Units work in order and side by side. An operation waits for the last operation of each other unit that writes what it
reads or overwrites, or reads what it overwrites, unless something its own unit waited for before implies it (vector
clocks). Only attention needs no token from the write of the same tokens' entries: it waits by itself, before it reads what that
writes and long before it writes. Values that share a memory's place are one. Tokens are counted, so an operation in the layer loop pops the same tokens in every iteration: waits on the previous
iteration are supplied to the first one by an empty operation at the end of the prologue, and taken up by the epilogue.
"""

from __future__ import annotations

from collections.abc import Mapping

from compiler.graph.ops import ALIGNED, Graph, Op, Place, Value
from skipopu.isa.spec import TokenList, Unit

# One unit aligns for everybody.
ALIGNER = Value("aligner", Place.STATE, 1)


def _uses(op: Op) -> tuple[set[Value], set[Value]]:
    """(read, written) by ``op``, the aligner included."""
    written = set(op.writes)
    if any(v.place in ALIGNED for v in op.writes):
        written.add(ALIGNER)
    return set(op.reads), written


Shared = Mapping[Value, set[Value]]


def conflict(one: Op, other: Op, shared: Shared) -> bool:
    """Whether two operations may not change places; ``shared`` has the values in the same place as a value."""
    reads, writes = _uses(one)
    other_reads, other_writes = _uses(other)

    def meets(values: set[Value], others: set[Value]) -> bool:
        return any(not others.isdisjoint(shared.get(value, {value})) for value in values)

    return meets(writes, other_reads | other_writes) or meets(reads, other_writes)


def _waits(ops: list[Op], shared: Shared) -> list[dict[Unit, int]]:
    """Per operation of a straight line: the operations (by unit, as indices) whose tokens it pops."""
    clocks: list[dict[Unit, int]] = []  # what is complete when the operation starts: last index per unit
    known: dict[Unit, dict[Unit, int]] = {unit: {} for unit in Unit}
    result: list[dict[Unit, int]] = []

    def complete(clock: dict[Unit, int], j: int) -> None:
        for unit, last in (*clocks[j].items(), (ops[j].unit, j)):
            clock[unit] = max(clock.get(unit, -1), last)

    for i, op in enumerate(ops):
        clock = dict(known[op.unit])
        waits: dict[Unit, int] = {}
        implied: list[int] = []  # complete when it ends
        for j in range(i - 1, -1, -1):
            other = ops[j]
            if other.unit is op.unit or clock.get(other.unit, -1) >= j or not conflict(op, other, shared):
                continue
            if (other.kind, op.kind) == ("kvwrite", "attend") and other.tokens is op.tokens:
                implied.append(j)
                continue
            waits[other.unit] = j
            complete(clock, j)
        for j in implied:
            complete(clock, j)
        clocks.append(clock)
        known[op.unit] = clock
        result.append(waits)
    return result


def depend(graph: Graph, shared: Shared) -> Graph:
    """Adds tokens to the operations of ``graph``, and an empty product to the prologue where the loop needs it."""
    if not _link(graph, shared):
        graph.prologue.append(Op("matmul", "start the layers", TokenList.ALL, writes=graph.prologue[-1].writes))
        if not _link(graph, shared):
            raise AssertionError("the layers' first iteration waits for something that the prologue cannot supply")
    return graph


def _link(graph: Graph, shared: Shared) -> bool:
    """Sets ``pop`` and ``push``; False when the first iteration needs tokens that the other ones do not."""
    head, body = len(graph.prologue), len(graph.body)
    line = [*graph.prologue, *graph.body, *graph.body, *graph.epilogue]
    second, tail = head + body, head + 2 * body
    waits = _waits(line, shared)
    links: set[tuple[int, int]] = set()
    carried: set[tuple[Unit, Unit]] = set()  # tokens that pass from one iteration to the next
    for i in (*range(head), *range(second, len(line))):  # the second copy of the body is the steady state
        for unit, j in waits[i].items():
            if second <= i < tail and j < second:
                if j < head:
                    return False
                carried.add((unit, line[i].unit))
            links.add((j, i))
    for i in range(head, second):
        if any(j < head and (line[j].unit, line[i].unit) not in carried for j in waits[i].values()):
            return False
    for unit, waiting in carried:
        supplier = next((j for j in range(head - 1, -1, -1) if line[j].unit is unit), None)
        taker = next((i for i in range(tail, len(line)) if line[i].unit is waiting), None)
        if supplier is None or taker is None:
            return False
        # One token too many goes round the loop: the prologue makes it, the epilogue takes it.
        line[supplier].push |= 1 << waiting
        line[taker].pop |= 1 << unit
    for j, i in links:
        line[j].push |= 1 << line[i].unit
        line[i].pop |= 1 << line[j].unit
    return True
