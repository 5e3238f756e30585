"""Functional engine against RTL on four machines: random programs, random models, random memory stalls."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compiler.passes.schedule import Schedule
from compiler.pipeline import compile_checkpoint
from sim.check import differing_bits, first_difference
from sim.functional import engine as functional
from sim.profile import CAUSES, profile
from sim.quantise.calibrate import Asked, quantise
from sim.result import Counted
from sim.rtl import engine as rtl
from sim.studies.accuracy.points import as_held
from sim.timing import engine as timing
from skipopu.machine.config import Machine
from skipopu.numerics.activation import ACTIVATIONS
from skipopu.numerics.formats import INT4Z, INT8, Format
from skipopu.program.program import Program
from skipopu.program.run import Run
from tests.agreement.random_program import random_program
from tests.support import random_checkpoint, small_config

pytestmark = pytest.mark.timeout(600)  # the first test of a machine builds its simulation, two minutes for the largest

TARGETS = ("tiny", "mono", "trio", "u280-slice4")


def cases(seeds: int) -> list:
    """(target, seed); the first ones of the smallest machines are what ``make test`` runs."""
    return [
        pytest.param(target, seed, marks=pytest.mark.agreement if target in ("tiny", "mono") and seed < 2 else pytest.mark.rtl)
        for seed in range(seeds)
        for target in TARGETS
    ]


def agree(program: Program, run: Run, memory: rtl.Memory) -> Counted:
    """Asserts that both engines leave the same signatures, tokens and memory."""
    expected = functional.run(program, run)
    seen = rtl.run(program, run, rtl.Options(memory=memory, cycle_limit=3_000_000))
    assert first_difference(program, expected.trace, seen.trace) is None
    assert seen.tokens == expected.tokens
    assert differing_bits(program, expected, seen) == 0
    assert seen.saturated == expected.saturated
    assert seen.kv_entries == expected.kv_entries
    return seen


@pytest.mark.parametrize(("target", "seed"), cases(8))
def test_random_programs(target: str, seed: int) -> None:
    program, run = random_program(Machine.load(target), 1000 * TARGETS.index(target) + seed)
    agree(program, run, rtl.Memory(latency=1 + 13 * seed, stall=(0, 40, 120)[seed % 3], seed=seed))


@pytest.mark.parametrize(("target", "seed"), cases(4))
def test_random_models(target: str, seed: int) -> None:
    rng = np.random.default_rng(100 * TARGETS.index(target) + seed)
    machine = Machine.load(target)
    kv_heads = int(rng.integers(1, 3))
    config = small_config(
        hidden_size=int(rng.integers(9, 80)),
        intermediate_size=int(rng.integers(5, 150)),
        num_layers=int(rng.integers(1, 4)),
        num_heads=kv_heads * int(rng.integers(1, 5)),
        num_kv_heads=kv_heads,
        head_dim=max(machine.vector_lanes, int(rng.choice([16, 32]))),
        vocab_size=int(rng.integers(10, 90)),
        tie_word_embeddings=bool(rng.integers(2)),
        max_positions=24,
    )
    kv = ("reuse", "dense")[seed % 2]
    weights = machine.formats[seed % len(machine.formats)]
    group = max(machine.weight_lanes, (128, 64, 32, 64)[seed])
    checkpoint = random_checkpoint(config, seed)
    program = compile_checkpoint(checkpoint, machine, kv, logits=bool(seed & 2), context=24, group=group, weights=weights)
    prompt = tuple(int(t) for t in rng.integers(0, config.vocab_size, int(rng.integers(1, 12))))
    routing = rng.random((config.num_layers, 2, 24)) < 0.6 if seed == 3 else "program"
    agree(
        program, Run(prompt, int(rng.integers(0, 5)), check=True, routing=routing), rtl.Memory(stall=60 * (seed % 2), seed=seed)
    )


@pytest.mark.rtl
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("routing", ["program", "always"])
def test_timing_predicts_cycles_stalls_and_bytes(target: str, routing: str) -> None:
    program = compile_checkpoint(random_checkpoint(small_config(), 1), Machine.load(target), context=40)
    predicts(program, Run(tuple(range(1, 14)), 6, routing=routing))


@pytest.mark.rtl
@pytest.mark.parametrize(
    ("weights", "group"), [("int4", 8), ("int4z", 16), ("int8", 8), ("int8", 16), ("int4z", 32), ("fp4", 64)]
)
def test_formats_and_short_groups(weights: str, group: int) -> None:
    """Same bits, and cycles as predicted, one token at a time and four."""
    program = compile_checkpoint(
        random_checkpoint(small_config(), 1), Machine.load("tiny"), context=24, group=group, weights=weights
    )
    agree(program, Run((5, 3, 8), 2, check=True), rtl.Memory(stall=60, seed=group))
    predicts(program, Run(tuple(range(1, 14)), 6))


@pytest.mark.rtl
@pytest.mark.parametrize(
    "formats", [{"q": INT4Z, "k": INT8, "v": INT8, "head": INT4Z}, {"o": INT8, "gate": INT4Z, "up": INT4Z, "down": INT8}]
)
def test_products_in_formats_of_their_own(formats: dict[str, Format]) -> None:
    checkpoint = random_checkpoint(small_config(), 1)
    found = quantise(checkpoint, np.arange(24)[None], Asked(32, "rtn", formats))
    program = compile_checkpoint(as_held(checkpoint, found), Machine.load("tiny"), context=24, group=32)
    assert isinstance(program.weights, dict)
    assert {*program.weights.values()} == {"int4", "int8", "int4z"}
    agree(program, Run((5, 3, 8), 2, check=True), rtl.Memory(stall=60, seed=1))
    predicts(program, Run(tuple(range(1, 14)), 6))


@pytest.mark.rtl
@pytest.mark.parametrize("group", [16, 32])
def test_groups_of_one_word(group: int) -> None:
    """As on a machine of 512-bit ports: a short group is one word of the vector unit, and whoever writes waits for the aligner."""
    machine = dataclasses.replace(Machine.load("tiny"), ports=1, port_bits=256, vector_lanes=16, tokens=2, activation=4096)
    config = small_config(hidden_size=2000, intermediate_size=30, num_layers=1, num_heads=2, num_kv_heads=1)
    program = compile_checkpoint(random_checkpoint(config, 2), machine, context=24, group=group, weights="int4z")
    agree(program, Run((5, 3, 8), 2, check=True), rtl.Memory(latency=1))
    predicts(program, Run(tuple(range(1, 8)), 4))


def predicts(program: Program, run: Run) -> None:
    """Asserts that the timing engine counts what the simulation does."""
    expected = functional.run(program, run)
    seen, predicted = rtl.run(program, run).counters, timing.run(program, run, timing.Options(expected)).counters
    for name in ("READ_BEATS", "WRITE_BEATS", "HISTORY_BEATS", "AHEAD_BEATS"):
        assert predicted[name] == seen[name], name
    assert abs(predicted["CYCLES"] / seen["CYCLES"] - 1) < 0.03
    for ours, theirs in zip(profile(predicted), profile(seen), strict=True):
        assert ours.busy == theirs.busy, ours.unit
        for cause, a, b in zip(CAUSES, ours.stalls, theirs.stalls, strict=True):
            assert abs((a or 0) - (b or 0)) < 0.05 * seen["CYCLES"], (ours.unit, cause)


@pytest.mark.rtl
def test_timing_of_products_that_wait_for_memory() -> None:
    """Long products of one token are as fast as memory with its refreshes lets them be."""
    config = small_config(hidden_size=512, intermediate_size=1024, num_heads=8, num_kv_heads=4, head_dim=64)
    program = compile_checkpoint(random_checkpoint(config, 1), Machine.load("u280-slice4"), context=24)
    run = Run(tuple(range(1, 6)), 16)
    seen = rtl.run(program, run).counters
    predicted = timing.run(program, run, timing.Options(functional.run(program, run))).counters
    assert predicted["ARRAY_BUSY"] == seen["ARRAY_BUSY"]
    assert seen["ARRAY_WEIGHTS"] > seen["CYCLES"] / 3
    assert abs(predicted["CYCLES"] / seen["CYCLES"] - 1) < 0.03


@pytest.mark.rtl
@pytest.mark.parametrize("level", Schedule)
def test_no_bit_depends_on_the_schedule(level: Schedule) -> None:
    checkpoint = random_checkpoint(small_config(), 2)
    run = Run(tuple(range(1, 8)), 3, check=True)
    fused = functional.run(compile_checkpoint(checkpoint, Machine.load("tiny"), context=24), run)
    seen = agree(
        compile_checkpoint(checkpoint, Machine.load("tiny"), context=24, level=level), run, rtl.Memory(stall=30, seed=1)
    )
    assert seen.tokens == fused.tokens


@pytest.mark.rtl
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str) -> None:
    config = small_config(hidden_act=activation, num_layers=1)
    program = compile_checkpoint(random_checkpoint(config, 3), Machine.load("tiny"), context=24)
    agree(program, Run(tuple(range(1, 6)), 2, check=True), rtl.Memory())
