"""Stationary arrays, with masks of channels and without: the same bits in RTL, whatever the formats, groups and tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.fuzz.choices import thresholds
from sim.rtl import engine as rtl
from sim.timing import engine as timing
from skipopu.isa.registers import OF_MASKS
from skipopu.machine.config import Machine
from skipopu.program.run import Run
from tests.agreement.test_rtl import agree
from tests.support import random_checkpoint, small_config

pytestmark = [pytest.mark.rtl, pytest.mark.timeout(600)]

TINY = dataclasses.replace(Machine.load("tiny"), stationary=True, masks=True)
MONO = dataclasses.replace(Machine.load("mono"), stationary=True, masks=True)
RUN = Run(tuple(range(1, 12)), 6, check=True)


@pytest.mark.parametrize(
    ("machine", "weights", "group", "kv", "stall"),
    [
        (TINY, "int4", 32, "reuse", 0),
        (TINY, "int8", 16, "dense", 0),
        (TINY, "int4z", 8, "reuse", 90),
        (TINY, "fp4", 128, "reuse", 0),
        (TINY, "int4", 256, "dense", 90),
        (MONO, "int8", 64, "reuse", 0),
        (dataclasses.replace(TINY, weight_fifo=256), "int4z", 16, "reuse", 0),  # leading groups, four of them
        (dataclasses.replace(TINY, weight_fifo=256), "int4", 64, "dense", 90),  # one
    ],
)
@pytest.mark.parametrize("masks", ["none", "generated", "all"])
def test_formats_and_groups(machine: Machine, weights: str, group: int, kv: str, stall: int, masks: str) -> None:
    """More tokens than are multiplied at once, groups of several parts, ends of matrices that fill no tile."""
    config = small_config(hidden_size=80, intermediate_size=200, num_heads=6, num_kv_heads=3, vocab_size=90)
    checkpoint = random_checkpoint(config, 3)
    if masks != "none":
        checkpoint = dataclasses.replace(checkpoint, masks=thresholds(config, seed=5, spread=200, fixed=0.1))
    program = compile_checkpoint(checkpoint, machine, kv, context=40, weights=weights, group=group, mask_prompt=masks == "all")
    found = every = 0
    if masks != "none":
        found, every = functional.run(program, RUN).channels
        assert 0.2 < found / every < 0.95
    seen = agree(program, RUN, rtl.Memory(stall=stall, reorder=stall > 0, seed=3)).counters
    if not stall:
        predicted = timing.run(program, RUN).counters
        assert abs(predicted["CYCLES"] - seen["CYCLES"]) < max(0.03 * seen["CYCLES"], 300)
        assert all(predicted[name] == seen[name] for name in ("ARRAY_BUSY", "WRITE_BEATS", *OF_MASKS))
        if masks == "generated":  # a token at a time
            assert seen["CHANNELS_LEFT_OUT"] == every - found
        assert abs(predicted["READ_BEATS"] - seen["READ_BEATS"]) <= 0.002 * seen["READ_BEATS"]  # entries fetched ahead


@pytest.mark.parametrize(("threshold", "share"), [(0, 1.0), (0xFFFF, 0.0)])
def test_all_channels_and_none(threshold: int, share: float) -> None:
    config = small_config()
    shapes = thresholds(config, 0, 1, 0.0)
    fixed = {name: np.full_like(table, threshold) for name, table in shapes.items()}
    checkpoint = random_checkpoint(config, 2)
    program = compile_checkpoint(dataclasses.replace(checkpoint, masks=fixed), TINY, context=40)
    predicted = functional.run(program, RUN)
    assert predicted.active_channels_share == share
    seen = agree(program, RUN, rtl.Memory())
    active, every = predicted.channels
    assert seen.counters["CHANNELS_LEFT_OUT"] == every - active
    if threshold == 0:
        plain = agree(compile_checkpoint(checkpoint, TINY, context=40), RUN, rtl.Memory())
        assert seen.tokens == plain.tokens


@pytest.mark.parametrize(
    ("machine", "heads", "kv_heads", "head_dim"),
    [
        (TINY, 8, 2, 16),  # four queries a head, four entries at once
        (dataclasses.replace(TINY, history=0, query_group=8), 7, 1, 32),  # blocks of four and three queries
        (dataclasses.replace(TINY, history=0), 8, 8, 16),  # a query a head: entry by entry where tokens come one by one
        (dataclasses.replace(MONO, ports=3, kv_fifo=64, memory=dataclasses.replace(MONO.memory, latency=60)), 8, 2, 32),
        (
            dataclasses.replace(TINY, kv_heads=9, query=2048, activation=4096, buffer=16384),
            18,
            9,
            64,
        ),  # two header beats, entries of 72
    ],
)
def test_queries_share_heads(machine: Machine, heads: int, kv_heads: int, head_dim: int) -> None:
    """Several rounds of several entries, the last ones short; every instruction within a few cycles of what the timing engine counts."""
    config = small_config(num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim, max_positions=96)
    program = compile_checkpoint(random_checkpoint(config, 3), machine, "dense", context=80)
    run = Run(tuple(range(1, 56)), 6, check=True, routing="always")
    seen = agree(program, run, rtl.Memory()).counters
    predicted = timing.run(program, run).counters
    assert abs(predicted["CYCLES"] - seen["CYCLES"]) < 0.02 * seen["CYCLES"]
    assert all(predicted[name] == seen[name] for name in ("ATTENTION_BUSY", "ARRAY_BUSY", "WRITE_BEATS"))
