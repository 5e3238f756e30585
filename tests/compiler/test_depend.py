"""Dependence tokens: whatever the schedule, units never starve, and nothing is left when a chunk is done."""

from __future__ import annotations

import pytest

from compiler.frontend.shapes import outline
from compiler.graph.build import build
from compiler.graph.ops import Graph, Op
from compiler.passes.depend import _uses, depend
from compiler.passes.schedule import Schedule, schedule
from skipopu.isa.spec import Unit


def graph_of(kv: str, logits: bool, level: Schedule) -> Graph:
    return depend(schedule(build(outline("llama-2-7b"), kv, logits), level))


@pytest.mark.parametrize("level", Schedule)
@pytest.mark.parametrize("kv", ["dense", "reuse"])
@pytest.mark.parametrize("logits", [False, True])
def test_tokens_balance_and_order_every_conflict(kv: str, logits: bool, level: Schedule) -> None:
    """Runs the units' queues by the token rule alone, three layers long; each step completes what was started before it."""
    graph = graph_of(kv, logits, level)
    line: list[Op] = [*graph.prologue, *graph.body * 3, *graph.epilogue]
    queues = {unit: [i for i, op in enumerate(line) if op.unit is unit] for unit in Unit}
    tokens = {(a, b): 0 for a in Unit for b in Unit}
    done: list[int] = []
    while any(queues.values()):
        ready = [
            queue[0]
            for unit, queue in queues.items()
            if queue and all(tokens[a, unit] for a in Unit if line[queue[0]].pop >> a & 1)
        ]
        assert ready, "the units wait for one another"
        # Whoever could start together must not conflict.
        for i in ready:
            for j in ready:
                if i < j:
                    reads, writes = _uses(line[i])
                    other_reads, other_writes = _uses(line[j])
                    shared = writes & (other_reads | other_writes) | reads & other_writes
                    assert not shared, f"{line[i].note} beside {line[j].note}: {[v.name for v in shared]}"
        i = max(ready)  # the worst order: whoever is furthest ahead
        unit = line[i].unit
        for a in Unit:
            if line[i].pop >> a & 1:
                tokens[a, unit] -= 1
        queues[unit].pop(0)
        for b in Unit:
            if line[i].push >> b & 1:
                tokens[unit, b] += 1
        done.append(i)
    assert not any(tokens.values()), tokens
    position = {i: k for k, i in enumerate(done)}
    for i, op in enumerate(line):
        reads, writes = _uses(op)
        for j in range(i):
            other_reads, other_writes = _uses(line[j])
            if writes & (other_reads | other_writes) or reads & other_writes:
                assert position[j] < position[i], f"{op.note} before {line[j].note}"


def test_a_missing_token_is_seen() -> None:
    graph = graph_of("reuse", False, Schedule.RUN_AHEAD)
    attend = next(op for op in graph.body if op.kind == "attend")
    store = next(op for op in graph.body if op.kind == "kvwrite")
    assert attend.pop >> Unit.VECTOR & 1
    assert store.push >> Unit.ATTENTION & 1
