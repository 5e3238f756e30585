"""Sets the dependence tokens between units.

Units work in order and side by side. An operation waits for the last operation of each other unit that writes what it
reads or overwrites, or reads what it overwrites, unless something its own unit waited for before implies it (vector
clocks). Only attention needs no token from the write of the same tokens' entries: it waits by itself, before it reads what that
writes and long before it writes. Values that share a memory's place are one. Tokens are counted, so an operation in the layer loop pops the same tokens in every iteration: waits on the previous
iteration are supplied to the first one by an empty operation at the end of the prologue, and taken up by the epilogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from compiler.graph.ops import ALIGNED, Graph, Op, Place, Value
from skipopu.isa.spec import TokenList, Unit

# One unit aligns for everybody.
ALIGNER = Value("aligner", Place.STATE, 1)


Shared = Mapping[Value, set[Value]]


class Unlinked(AssertionError):
    """Tokens of a loop that no operation in front of it supplies, or behind it takes."""


class Access(NamedTuple):
    """The values that an operation reads and writes, the aligner included, and those in the same places."""

    reads: set[Value]
    writes: set[Value]
    near_reads: set[Value]
    near_writes: set[Value]


def accesses(op: Op, shared: Shared) -> Access:
    """What ``op`` uses; ``shared`` has the values in the same place as a value."""
    reads, writes = set(op.reads), set(op.writes)
    if any(v.place in ALIGNED for v in op.writes):
        writes.add(ALIGNER)
    near_reads, near_writes = ({near for v in values for near in shared.get(v, {v})} for values in (reads, writes))
    return Access(reads, writes, near_reads, near_writes)


def conflict(one: Access, other: Access) -> bool:
    """Whether ``one`` may not be done before ``other``, which is handed over before it and takes the token lists along."""
    return not (
        one.near_writes.isdisjoint(value for value in other.reads if value.place is not Place.DISPATCH)
        and one.near_writes.isdisjoint(other.writes)
        and one.near_reads.isdisjoint(other.writes)
    )


def _waits(ops: list[Op], shared: Shared) -> list[dict[Unit, int]]:
    """Per operation of a straight line: the operations (by unit, as indices) whose tokens it pops."""
    clocks: list[dict[Unit, int]] = []  # what is complete when the operation starts: last index per unit
    known: dict[Unit, dict[Unit, int]] = {unit: {} for unit in Unit}
    result: list[dict[Unit, int]] = []
    used = [accesses(op, shared) for op in ops]

    def complete(clock: dict[Unit, int], j: int) -> None:
        for unit, last in (*clocks[j].items(), (ops[j].unit, j)):
            clock[unit] = max(clock.get(unit, -1), last)

    for i, op in enumerate(ops):
        clock = dict(known[op.unit])
        waits: dict[Unit, int] = {}
        implied: list[int] = []  # complete when it ends
        for j in range(i - 1, -1, -1):
            other = ops[j]
            if other.unit is op.unit or clock.get(other.unit, -1) >= j or not conflict(used[i], used[j]):
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
    """Adds tokens to the operations of ``graph``, and an empty product before or behind the layers where the loop needs it."""
    for _ in range(3):
        if (missing := _link(graph, shared)) is None:
            return graph
        if missing is graph.prologue:
            graph.prologue.append(Op("matmul", "start the layers", TokenList.ALL, writes=graph.prologue[-1].writes))
        else:
            graph.epilogue.insert(0, Op("matmul", "end the layers", TokenList.ALL, writes=graph.prologue[0].writes[:1]))
    raise Unlinked("the layers wait for something that prologue and epilogue cannot supply or take")


def _link(graph: Graph, shared: Shared) -> list[Op] | None:
    """Sets ``pop`` and ``push``; else the line that needs another operation.

    The prologue does when the first iteration needs tokens that the other ones do not, the epilogue when nothing in it can take
    the tokens of the last one, or waits for what nothing waits for in the other ones.
    """
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
                    return graph.prologue
                carried.add((unit, line[i].unit))
            links.add((j, i))
    for i in range(head, second):
        if any(j < head and (line[j].unit, line[i].unit) not in carried for j in waits[i].values()):
            return graph.prologue
    taken = {(j % body, line[i].unit) for j, i in links if head <= j < tail and i < tail}
    if any(head <= j < tail <= i and (j % body, line[i].unit) not in taken for j, i in links):
        return graph.epilogue
    ends: list[tuple[int, int]] = []
    for unit, waiting in carried:
        supplier = next((j for j in range(head - 1, -1, -1) if line[j].unit is unit), None)
        taker = next((i for i in range(tail, len(line)) if line[i].unit is waiting), None)
        if supplier is None or any(j == supplier and line[i].unit is waiting for j, i in links):
            return graph.prologue
        if taker is None or any(i == taker and j >= tail and line[j].unit is unit for j, i in links):
            return graph.epilogue
        ends.append((supplier, taker))
    # One token too many goes round the loop: the prologue makes it, the epilogue takes it.
    for j, i in (*links, *ends):
        line[j].push |= 1 << line[i].unit
        line[i].pop |= 1 << line[j].unit
    return None
