"""Cycles of whole runs: repetition changes no count, the RTL takes as many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.frontend.shapes import outline, random_checkpoint
from compiler.passes.schedule import Schedule
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.result import Routed
from sim.routing import independent
from sim.rtl import engine as rtl
from sim.timeline import Span
from sim.timing import engine as timing
from sim.timing.bus import undecided
from skipopu.isa.registers import Config
from skipopu.isa.spec import MATMUL, OPCODE_BITS, ROUTE
from skipopu.layout import KvEntry
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.machine.memory import MemoryTiming
from skipopu.program.program import Program
from skipopu.program.run import Run
from tests.support import small_config

LAYERS, CONTEXT = 5, 40


def both_ways(program: Program, prompt: int, new: int, routing: np.ndarray) -> None:
    """Repeated layers and every layer on its own give the same result, token by token."""
    run, routed = Run((0,) * prompt, new), Routed(tokens=[0] * new, routing=routing)
    fast, slow = (timing.run(program, run, timing.Options(routed, repeat=repeat)) for repeat in (True, False))
    assert fast.counters == slow.counters
    assert fast.at_token == slow.at_token
    assert fast.kv_entries == slow.kv_entries
    assert len(fast.at_token) == new


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    target=st.sampled_from(["tiny", "mono", "trio", "u280-slice4", "u280"]),
    skips=st.tuples(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.sampled_from([0.0, 0.3, 1.0])),
    kv=st.sampled_from(["dense", "reuse"]),
    level=st.sampled_from(list(Schedule)),
    prompt=st.integers(1, 25),
    new=st.integers(0, 15),
    memory=st.sampled_from(
        [
            None,
            MemoryTiming(latency=20, beats_per_256_cycles=40),
            MemoryTiming(turnaround=18),
            MemoryTiming(latency=3, turnaround=100),
        ]
    ),
)
def test_repeated_layers_are_counted_like_every_layer(
    seed: int,
    target: str,
    skips: tuple[float, float],
    kv: str,
    level: Schedule,
    prompt: int,
    new: int,
    memory: MemoryTiming | None,
) -> None:
    machine = Machine.load(target)
    if memory:  # in the third and fourth, writes keep reads waiting for a layer and more
        machine = replace(machine, memory=memory, write_burst=1)
    checkpoint = outline("", config=small_config(num_layers=LAYERS))
    program = compile_checkpoint(checkpoint, machine, kv, context=CONTEXT, group=128, level=level)
    both_ways(program, prompt, new, independent(LAYERS, CONTEXT, *skips, seed))


def test_embed_waits_no_longer_than_entries_are_fetched_ahead() -> None:
    """On a slow memory a token's short reads meet one another's wait, not each a wait of its own."""
    memory = MemoryTiming(latency=4, beats_per_256_cycles=52, outstanding=4)
    machine = replace(Machine.load("tiny"), memory=memory, burst=32, weight_fifo=70, kv_fifo=71)
    checkpoint = outline("", config=small_config(num_layers=2))
    embedded = []
    for prefetch in (False, True):
        program = compile_checkpoint(checkpoint, machine, "reuse", context=CONTEXT, group=128, prefetch=prefetch)
        spans: list[Span] = []
        routed = Routed(tokens=[0] * 8, routing=np.ones((2, 2, CONTEXT), bool))
        timing.run(program, Run((0,), 8), timing.Options(routed, spans=spans))
        first = next(span for span in spans if span.track == "vector" and span.position == 7)
        embedded.append(first.end - first.start)
    missing = -(-7 // machine.ports) * KvEntry(program.model.num_kv_heads, program.model.head_dim, machine).beats
    assert embedded[0] < embedded[1] <= embedded[0] + missing / memory.rate


@pytest.mark.parametrize("seed", range(4))
def test_repeated_layers_behind_writes_that_outlast_them(seed: int) -> None:
    """Which of them wait depends on the port that holds a token's entry: reads of port 0 alone meet some."""
    machine = replace(Machine.load("tiny"), memory=MemoryTiming(latency=3, turnaround=200), write_burst=1)
    checkpoint = outline("", config=small_config(num_layers=LAYERS))
    program = compile_checkpoint(checkpoint, machine, "dense", context=CONTEXT, group=128)
    both_ways(program, 3 + seed, 12, independent(LAYERS, CONTEXT, 0.5, 0.3, seed))


@pytest.mark.studies
@pytest.mark.parametrize("skip", [0.0, 0.25])
def test_repeated_layers_of_a_large_model(skip: float) -> None:
    program = compile_checkpoint(outline("llama-2-7b"), Machine.load("u280"), context=400)
    both_ways(program, 130, 200, independent(32, 400, skip, skip, 0))


def test_weights_that_wait_for_no_decision() -> None:
    """With dense KV the weights of keys and values are asked for in front of EMBED's and ROUTE's reads."""
    machine = Machine.load("tiny")
    beats = {}
    for kv in ("dense", "reuse"):
        program = compile_checkpoint(outline("", config=small_config()), machine, kv, context=8, group=128)
        state = timing.Timing(program, Run((1,), 0), Routed(tokens=[], routing=np.ones((2, 2, 8), bool))).state
        state.walk.config[Config.GROUP] = 128
        decision = next(step.pc for step in state.walk.steps if step.instruction is ROUTE)
        beats[kv] = undecided(state, 0)[0], undecided(state, decision)[0]
    assert beats["reuse"][0] > beats["reuse"][1] == 0
    assert beats["dense"][1] > 0
    assert beats["dense"][0] == beats["reuse"][0] + beats["dense"][1]


@pytest.mark.rtl
@pytest.mark.parametrize(
    "memory",
    [
        MemoryTiming(latency=90, outstanding=4, refresh_interval=500, refresh=40),
        MemoryTiming(latency=1, beats_per_256_cycles=77, turnaround=9, issue=5),
        MemoryTiming(latency=2, turnaround=18),
    ],
)
@pytest.mark.parametrize(("skip", "check"), [(0.0, False), (0.4, False), (0.4, True)])
def test_cycles_of_the_rtl(memory: MemoryTiming, skip: float, check: bool) -> None:
    config = small_config()
    machine = Machine.load("tiny")
    program = compile_checkpoint(random_checkpoint(config, 3, routers=False), machine, context=16)
    run = Run((1, 2, 3, 4, 5, 6, 7), 4, check=check, routing=independent(config.num_layers, 16, skip, skip, 1))
    program = replace(program, machine=replace(machine, memory=memory))
    seen = rtl.run(program, run)
    expected = functional.run(program, run)
    assert seen.tokens == expected.tokens
    counted = timing.run(program, run, timing.Options(expected)).counters["CYCLES"]
    assert abs(counted / seen.counters["CYCLES"] - 1) < 0.03


def test_a_product_is_handed_over_when_its_size_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is held against the buffer first: seen where the array waits for nothing else, and by no more than the products are."""
    program = compile_checkpoint(random_checkpoint(small_config(), 2), Machine.load("mono"))
    run = Run((0,) * 3, 2)
    routed = Routed(tokens=[0, 0], routing=independent(small_config().num_layers, 5, 0.0, 0.0, 0))
    counted = timing.run(program, run, timing.Options(routed)).counters["CYCLES"]
    taken = pipeline.sized(program.machine)
    monkeypatch.setattr(pipeline, "sized", lambda machine: 0)
    before = timing.run(program, run, timing.Options(routed)).counters["CYCLES"]
    products = sum(word & (1 << OPCODE_BITS) - 1 == MATMUL.opcode for word in program.instructions) * small_config().num_layers
    assert 0 < counted - before <= taken * products * (3 + 2)


def test_outlines_are_timed_like_checkpoints() -> None:
    config = small_config()
    machine = Machine.load("tiny")
    routed = Routed(tokens=[0] * 4, routing=independent(config.num_layers, 8, 0.3, 0.3, 1))
    counts = [
        timing.run(compile_checkpoint(checkpoint, machine, context=8), Run((1, 2, 3), 4), timing.Options(routed)).counters
        for checkpoint in (outline("", config=config), random_checkpoint(config, 1))
    ]
    assert counts[0] == counts[1]
