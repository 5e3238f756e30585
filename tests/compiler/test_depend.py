"""Dependence tokens: whatever the schedule, units never starve, and nothing is left when a chunk is done."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from compiler.frontend.shapes import outline
from compiler.graph.build import build
from compiler.graph.ops import Graph, Op, Value
from compiler.passes.depend import accesses, conflict, depend
from compiler.passes.plan import Plan, plan_buffer, sharing
from compiler.passes.schedule import Schedule, schedule
from skipopu.isa.spec import Unit
from skipopu.machine.config import Machine
from skipopu.policy import KvPolicy
from tests.support import small_config
from tests.variants import VARIANTS

Shared = dict[Value, set[Value]]


def graph_of(kv: KvPolicy, logits: bool, level: Schedule, **changes: object) -> tuple[Graph, Shared]:
    machine, plan = dataclasses.replace(Machine.load("tiny"), buffer=1 << 15), Plan()
    graph = schedule(build(outline("small", config=small_config(**changes)), kv, logits), level)
    plan_buffer(graph, machine, plan)
    shared = sharing(graph, machine, plan)
    return depend(graph, shared), shared


def run(graph: Graph, shared: Shared, order: tuple[Unit, ...]) -> None:
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
    used = [accesses(op, shared) for op in line]
    for i, op in enumerate(line):
        for j in range(i):
            if conflict(used[i], used[j]):
                assert position[j] < position[i], f"{op.note} before {line[j].note}"


@pytest.mark.parametrize("level", Schedule)
@pytest.mark.parametrize("kv", KvPolicy)
@pytest.mark.parametrize("logits", [False, True])
def test_tokens_balance_and_order_every_conflict(kv: KvPolicy, logits: bool, level: Schedule) -> None:
    found = graph_of(kv, logits, level)
    for order in itertools.permutations(Unit):
        run(*found, order)


@pytest.mark.parametrize("level", [Schedule.UNFUSED, Schedule.RUN_AHEAD])
@pytest.mark.parametrize("name", VARIANTS)
def test_tokens_order_every_model(name: str, level: Schedule) -> None:
    for kv, logits in ((KvPolicy.REUSE, True), (KvPolicy.DENSE, False)):
        found = graph_of(kv, logits, level, **VARIANTS[name])
        for order in itertools.permutations(Unit):
            run(*found, order)


def test_values_in_one_place_wait_for_one_another() -> None:
    """In a parallel layer nothing else makes the gate's results wait for the vector unit, which adds O's to the residual."""
    graph, shared = graph_of(KvPolicy.REUSE, False, Schedule.RUN_AHEAD, parallel=True, biases=("o",))
    gate = next(op for op in graph.body if "gate" in op.note)
    assert gate.pop >> Unit.VECTOR & 1
    (results,) = (value for value in shared if value.name == "o results")
    assert gate.writes[0] in shared[results]
    assert not depend(graph_without_tokens(graph), {}).body[graph.body.index(gate)].pop >> Unit.VECTOR & 1


def graph_without_tokens(graph: Graph) -> Graph:
    lines = [[dataclasses.replace(op, pop=0, push=0) for op in line] for line in (graph.prologue, graph.body, graph.epilogue)]
    return Graph(*lines, graph.layers)


def test_a_missing_token_is_seen() -> None:
    graph, shared = graph_of(KvPolicy.DENSE, False, Schedule.RUN_AHEAD)
    attend = next(op for op in graph.body if op.kind == "attend")
    store = next(op for op in graph.body if op.kind == "kvwrite")
    attend.pop &= ~(1 << Unit.VECTOR)
    with pytest.raises(AssertionError, match="tokens are left"):
        run(graph, shared, (Unit.ATTENTION, Unit.ARRAY, Unit.VECTOR))
    store.push &= ~(1 << Unit.ATTENTION)
    with pytest.raises(AssertionError, match="attention before store K and V entries"):
        run(graph, shared, (Unit.ATTENTION, Unit.ARRAY, Unit.VECTOR))


def test_units_work_side_by_side() -> None:
    """Nothing makes Q wait for the KV entries that are written meanwhile."""
    graph, _ = graph_of(KvPolicy.REUSE, False, Schedule.RUN_AHEAD)
    query = next(op for op in graph.body if "q_proj" in op.note)
    store = next(op for op in graph.body if op.kind == "kvwrite")
    assert not query.pop
    assert store.pop == 1 << Unit.ARRAY
