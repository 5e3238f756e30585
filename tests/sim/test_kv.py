"""Allocation of KV entries on the functional engine, the buffer's contents in the timing engine, the memory models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim.baselines import data
from sim.functional import engine as functional
from sim.routing import independent
from sim.studies.kv import calibration
from sim.studies.kv.traffic import by_counter, traffic
from sim.timing.history import History, valid_layers
from skipopu.errors import ConfigError, ProgramError
from skipopu.layout import KvEntry
from skipopu.machine.config import AHEAD_STEP, Machine
from skipopu.machine.memory import DDR4_2400, HBM2, memory_timing
from skipopu.program.run import Run
from tests.support import random_checkpoint, small_config

LAYERS, CONTEXT = 5, 24
CHECKPOINT = random_checkpoint(small_config(num_layers=LAYERS), 3)
PROGRAMS = {
    target: compile_checkpoint(CHECKPOINT, Machine.load(target), context=CONTEXT) for target in ("tiny", "trio", "mono")
}
ENTRY = KvEntry(CHECKPOINT.config.num_kv_heads, CHECKPOINT.config.head_dim, Machine.load("trio"))


@pytest.mark.slow
@settings(max_examples=20)
@given(seed=st.integers(0, 1 << 30), skip=st.sampled_from([0.0, 0.3, 0.8, 1.0]), target=st.sampled_from(sorted(PROGRAMS)))
def test_entries_are_allocated_for_executed_pairs_only_and_the_map_finds_them(seed: int, skip: float, target: str) -> None:
    program = PROGRAMS[target]
    routing = independent(LAYERS, CONTEXT, skip, skip, seed)
    prompt = tuple(range(1, 14))
    engine = functional.Functional(program, Run(prompt, 3, routing=routing), functional.Options())
    executed = engine.execute().routing[:, 0]
    pool, positions = engine.state.pool, executed.shape[1]
    assert pool.entries == executed.sum()
    # An entry per executed pair, no place twice, whole in the token's port.
    number = pool.map[:, :positions]
    assert len(set(number[executed].tolist())) == executed.sum()
    port, place = pool.port_place[number].transpose(2, 0, 1)
    assert (port == np.arange(positions) % program.machine.ports).all()
    assert len({(int(p), int(q)) for p, q in zip(port[executed], place[executed], strict=True)}) == executed.sum()
    # Every pair finds the entry of the last layer that executed, never one of a layer that was skipped.
    valid = valid_layers(executed)
    assert (number == number[valid, np.arange(positions)]).all()


@given(st.integers(0, 1 << 30), st.integers(0, 6))
def test_history_of_the_timing_engine(seed: int, slots: int) -> None:
    rng = np.random.default_rng(seed)
    program = PROGRAMS["trio"]
    routing = independent(LAYERS, CONTEXT, 0.4, 0, seed)
    history, held = History(program, routing, ENTRY), {}
    for _ in range(12):
        layer, tokens = int(rng.integers(LAYERS)), int(rng.integers(1, CONTEXT))
        first = int(rng.integers(tokens)) if rng.random() < 0.5 else 0
        hits, misses = history.attend(layer, tokens, slots, first)
        expected = np.zeros((2, 3), int)
        for t in range(first, tokens):
            last = max(k for k in range(layer + 1) if routing[k, 0, t])
            expected[int(held.get(t) != last), t % 3] += 1
            if t // 3 < slots:
                held[t] = last
        assert (hits == expected[0]).all()
        assert (misses == expected[1]).all()


@given(st.integers(0, 1 << 30), st.integers(0, 6), st.integers(0, 400))
def test_filled_ahead(seed: int, slots: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    routing = independent(LAYERS, CONTEXT, 0.4, 0, seed)
    history, fresh = (History(PROGRAMS["trio"], routing, ENTRY) for _ in range(2))
    layer, tokens, beats = int(rng.integers(LAYERS)), int(rng.integers(1, CONTEXT)), rng.integers(0, most + 1, 3)
    for each in (history, fresh):
        each.attend(max(layer - 1, 0), 1 + seed % (CONTEXT - 1), slots)
    first = int(rng.integers(tokens)) // 3 * 3 if rng.random() < 0.5 else 0
    begun, coming = history.fetch_ahead(layer, tokens, slots, beats, first)
    # A port begins what it has time for, and at most finishes it late.
    assert (coming <= np.where(beats > 0, ENTRY.key_beats - 1, 0)).all()
    assert begun <= (beats + coming).sum()
    hits, misses = history.attend(layer, tokens, slots, first)
    hits_before, misses_before = fresh.attend(layer, tokens, slots, first)
    assert ((hits - hits_before) * history.runs).sum() == begun == ((misses_before - misses) * history.runs).sum()


def test_time_without_end_leaves_every_other_round() -> None:
    history = History(PROGRAMS["trio"], independent(LAYERS, CONTEXT, 0.4, 0, 0), ENTRY)
    history.fetch_ahead(1, CONTEXT, CONTEXT, np.full(3, 1 << 20))
    rounds = np.arange(CONTEXT) // 3
    hit, missed = (n.sum() for n in history.attend(1, CONTEXT, CONTEXT))
    assert (hit, missed) == (2 * (rounds % AHEAD_STEP == 0).sum(), 2 * (rounds % AHEAD_STEP != 0).sum())


def test_ports_run_ahead_of_one_that_waits_by_little() -> None:
    """They are asked in turn, and a port takes no more than it has places for before it can read."""
    history = History(PROGRAMS["trio"], independent(LAYERS, CONTEXT, 0.4, 0, 0), ENTRY)
    history.fetch_ahead(1, CONTEXT, CONTEXT, np.array([0, 1 << 20, 1 << 20]))
    hits, _ = history.attend(1, CONTEXT, CONTEXT)
    assert hits.sum(0).tolist() == [0, 3, 3]


def test_options_of_the_history_buffer() -> None:
    with pytest.raises(ProgramError, match="history is 999 tokens; machine tiny accepts 0 to"):
        compile_checkpoint(CHECKPOINT, Machine.load("tiny"), context=CONTEXT, history=999)
    names = [n for n in PROGRAMS["tiny"].notes if n == "HISTORY"]
    assert names == ["HISTORY"]


def test_memory_models_reproduce_what_was_published() -> None:
    reads = data.fpgas().reads
    for name, measured in reads.patterns.items():
        sequential, channels = name.startswith("sequential"), int(name.split()[1])
        issue = 0 if sequential else reads.issue * 1000 / reads.clock_mhz
        for size, seen in zip(reads.sizes, measured, strict=True):
            # The published fit is within 5.5 ns of a transaction.
            assert abs(HBM2.transaction(size, 1 - 1 / channels, issue) - size / seen) < 5.6
    assert abs(32 * HBM2.cap - reads.every_channel_gb_s) < 1
    assert abs(DDR4_2400.in_flight(512, 4) / DDR4_2400.peak - reads.ddr4_share) < 0.001


@pytest.mark.rtl
def test_the_simulated_memory_has_the_models_bandwidth() -> None:
    for cells in calibration.calibrate().values():
        for measured, formula, simulated in cells:
            assert simulated < 1.002 * HBM2.cap + 0.05
            assert abs(simulated / formula - 1) < 0.15
            assert abs(simulated / measured - 1) < 0.12


def test_a_memory_is_a_device_or_cycles() -> None:
    assert memory_timing("hbm2", 225, 64, "here").rate == pytest.approx(13.15 / 14.4, rel=1e-3)
    with pytest.raises(ConfigError, match=r"here: memory is 'sram'; accepted: hbm2, ddr4-2400"):
        memory_timing("sram", 225, 64, "here")
    with pytest.raises(ConfigError, match="here: memory outstanding is 99; accepted: 1 to 64"):
        memory_timing({"outstanding": 99}, 225, 64, "here")


def test_traffic_of_the_study() -> None:
    machine, config = Machine.load("u280"), outline("llama-2-7b").config
    some = independent(config.num_layers, 300, 0.25, 0, 0)[:, 0]
    entry = KvEntry(config.num_kv_heads, config.head_dim, machine)
    every, second, none = (traffic(machine, config, some, (255,), n, s) for n, s in ((1024, 1), (1024, 2), (0, 1)))
    assert every.bytes == every.reads * entry.beats * machine.beat_bytes == 31 * 256 * 257 * 64
    assert every.hit_rate == pytest.approx(0.25, abs=0.02)
    assert second.hit_rate == pytest.approx(0.0625, abs=0.02)
    assert none.hits == 0
    assert none.bandwidth < every.bandwidth <= machine.ports * 64 * machine.clock_mhz * 1e6 / 1e9
    uneven = traffic(machine, config, some, (255,), 0, 1, by_counter)
    assert uneven.bandwidth < none.bandwidth
