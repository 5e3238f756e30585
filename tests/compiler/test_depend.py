"""Dependence tokens: whatever the schedule, units never starve, and nothing is left when a chunk is done."""

from __future__ import annotations

import itertools

import pytest

from compiler.frontend.shapes import outline
from compiler.graph.build import build
from compiler.graph.ops import Graph, Op
from compiler.passes.depend import _uses, depend
from compiler.passes.schedule import Schedule, schedule
from skipopu.isa.spec import Unit
from skipopu.policy import KvPolicy


def graph_of(kv: KvPolicy, logits: bool, level: Schedule) -> Graph:
    return depend(schedule(build(outline("llama-2-7b"), kv, logits), level))


def run(graph: Graph, order: tuple[Unit, ...]) -> None:
    """Runs the units' queues by the tokens, three layers long; of units that could start, the first of ``order`` does.

    Attention that is not empty ends after the writes of its own tokens' entries by itself.

    Raises:
        AssertionError: units wait for one another, conflicting operations change places, or tokens are left.
    """
    line: list[Op] = [*graph.prologue, *graph.body * 3, *graph.epilogue]
    queues = {unit: [i for i, op in enumerate(line) if op.unit is unit] for unit in Unit}
    tokens = {(a, b): 0 for a in Unit for b in Unit}
    done: list[int] = []
    while any(queues.values()):
        heads = [queue[0] for queue in queues.values() if queue]
        ready = [i for i in heads if all(tokens[a, line[i].unit] for a in Unit if line[i].pop >> a & 1)]
        unwritten = [j for j in queues[Unit.VECTOR] if line[j].kind == "kvwrite"]
        ready = [
            i for i in ready if line[i].kind != "attend" or all(j > i or line[j].tokens != line[i].tokens for j in unwritten)
        ]
        assert ready, "the units wait for one another"
        i = min(ready, key=lambda i: order.index(line[i].unit))
        unit = line[i].unit
        queues[unit].pop(0)
        for a in Unit:
            tokens[a, unit] -= line[i].pop >> a & 1
            tokens[unit, a] += line[i].push >> a & 1
        done.append(i)
    assert not any(tokens.values()), f"tokens are left: {tokens}"
    position = {i: k for k, i in enumerate(done)}
    for i, op in enumerate(line):
        reads, writes = _uses(op)
        for j in range(i):
            other_reads, other_writes = _uses(line[j])
            if writes & (other_reads | other_writes) or reads & other_writes:
                assert position[j] < position[i], f"{op.note} before {line[j].note}"


@pytest.mark.parametrize("level", Schedule)
@pytest.mark.parametrize("kv", KvPolicy)
@pytest.mark.parametrize("logits", [False, True])
def test_tokens_balance_and_order_every_conflict(kv: KvPolicy, logits: bool, level: Schedule) -> None:
    for order in itertools.permutations(Unit):
        run(graph_of(kv, logits, level), order)


def test_a_missing_token_is_seen() -> None:
    graph = graph_of(KvPolicy.DENSE, False, Schedule.RUN_AHEAD)
    attend = next(op for op in graph.body if op.kind == "attend")
    store = next(op for op in graph.body if op.kind == "kvwrite")
    attend.pop &= ~(1 << Unit.VECTOR)
    with pytest.raises(AssertionError, match="tokens are left"):
        run(graph, (Unit.ATTENTION, Unit.ARRAY, Unit.VECTOR))
    store.push &= ~(1 << Unit.ATTENTION)
    with pytest.raises(AssertionError, match="attention before store K and V entries"):
        run(graph, (Unit.ATTENTION, Unit.ARRAY, Unit.VECTOR))


def test_units_work_side_by_side() -> None:
    """Nothing makes Q wait for the KV entries that are written meanwhile."""
    graph = graph_of(KvPolicy.REUSE, False, Schedule.RUN_AHEAD)
    query = next(op for op in graph.body if "q_proj" in op.note)
    store = next(op for op in graph.body if op.kind == "kvwrite")
    assert not query.pop
    assert store.pop == 1 << Unit.ARRAY
