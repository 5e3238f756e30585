"""The timing engine at full size: repetition changes no count, nothing passes the memory's cap, every known shape runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.frontend.shapes import outline, random_checkpoint
from compiler.passes.schedule import Schedule
from compiler.pipeline import compile_checkpoint
from sim.estimate import Workload, estimate, workload_bytes
from sim.functional import engine as functional
from sim.result import Routed
from sim.routing import independent, load_trace, ratios
from sim.rtl import engine as rtl
from sim.timing import energy
from sim.timing import engine as timing
from sim.timing.bus import undecided
from sim.timing.entries import entry_pace
from sim.timing.stream import NOTHING, Reader, Shape, Streams, flow, wait_of_ports
from sim.timing.writes import Writes
from skipopu.errors import CheckpointError, ProgramError
from skipopu.isa.program import Program, Run
from skipopu.isa.registers import Config
from skipopu.isa.spec import ROUTE
from skipopu.machine.config import Machine
from skipopu.machine.memory import MemoryTiming
from skipopu.shapes import SHAPES
from tests.support import small_config

LAYERS, CONTEXT = 5, 40
U280 = Machine.load("u280")


def both_ways(program: Program, prompt: int, new: int, routing: np.ndarray) -> None:
    """Repeated layers and every layer on its own give the same result, token by token."""
    run, routed = Run((0,) * prompt, new), Routed(tokens=[0] * new, routing=routing)
    fast, slow = (timing.run(program, run, timing.Options(routed, repeat=repeat)) for repeat in (True, False))
    assert fast.counters == slow.counters
    assert fast.at_token == slow.at_token
    assert fast.kv_entries == slow.kv_entries
    assert len(fast.at_token) == new


@settings(max_examples=40, deadline=None)
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


@pytest.mark.parametrize("seed", range(4))
def test_repeated_layers_behind_writes_that_outlast_them(seed: int) -> None:
    """Which of them wait depends on the port that holds a token's entry: reads of port 0 alone meet some."""
    machine = replace(Machine.load("tiny"), memory=MemoryTiming(latency=3, turnaround=200), write_burst=1)
    checkpoint = outline("", config=small_config(num_layers=LAYERS))
    program = compile_checkpoint(checkpoint, machine, "dense", context=CONTEXT, group=128)
    both_ways(program, 3 + seed, 12, independent(LAYERS, CONTEXT, 0.5, 0.3, seed))


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


def test_first_entries_come_together() -> None:
    far = replace(Machine.load("mono"), kv_fifo=64, memory=MemoryTiming(latency=90))
    paced = entry_pace(far, 1, 8, 4, 1, 1, 5)
    assert paced.period > 8
    assert paced.until(4) - paced.until(1) == 3 * 5  # as fast as they are used up
    assert paced.until(400) - paced.until(300) == pytest.approx(100 * paced.period)


def test_a_read_of_all_ports_waits_for_the_last_refresh() -> None:
    memory = MemoryTiming(refresh_interval=1000, refresh=100)
    together = replace(U280, ports=4, memory=memory)
    apart = replace(together, memory=replace(memory, refresh_together=False))
    many = replace(apart, ports=16)
    assert [wait_of_ports(machine, machine.ports) for machine in (together, apart, many)] == [5, 20, 68.75]
    assert [wait_of_ports(machine, 2) for machine in (together, apart, many)] == [5, 10, 5 + 62.5 * 68.75 / 1000]


@pytest.mark.studies
@pytest.mark.parametrize("skip", [0.0, 0.25])
def test_repeated_layers_of_a_large_model(skip: float) -> None:
    program = compile_checkpoint(outline("llama-2-7b"), U280, context=400)
    both_ways(program, 130, 200, independent(32, 400, skip, skip, 0))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("skip", ["0", "0.25"])
def test_nothing_is_above_the_cap(name: str, skip: str) -> None:
    part = estimate(U280, Workload(name, 96, 24, skip))
    assert 0.9 < part.share_of_cap < 1
    assert part.efficiency < 0.92
    assert part.tokens_per_s < part.roof
    # Physical bytes are the formula's, but for what machine and formula treat differently: below 2 %.
    skipped = 1 - (part.attention + part.ffn) / 2
    assert abs(part.bytes_per_token / workload_bytes(part.config, 108, "int4", skipped) - 1) < (0.02 if skip == "0" else 0.06)


def test_bytes_of_two_layer_routers() -> None:
    linear, two = (estimate(U280, Workload("llama-3.2-1b", 8, 8, routers=kind)) for kind in ("linear", "two-layer"))
    config = linear.config
    hidden = config.num_layers * config.hidden_size * (config.hidden_size // 2) * (4 + 16 / 128) / 8
    assert abs((two.bytes_per_token - linear.bytes_per_token) / hidden - 1) < 0.03
    assert two.tokens_per_s < linear.tokens_per_s
    with pytest.raises(CheckpointError, match="routers are 'three'; accepted: linear, two-layer"):
        outline("llama-3.2-1b", "three")


def test_the_paper_s_bytes() -> None:
    """2.843 and 3.768 GB per token: what arXiv 2603.14785's rates and efficiencies come to."""
    config = SHAPES["llama-2-7b"]
    assert round(workload_bytes(config, 640, "int4 with zero points", 0.25) / 1e9, 3) == 2.843
    assert round(workload_bytes(config, 640, "int4 with zero points") / 1e9, 3) == 3.768


def test_energy_adds_up() -> None:
    part = estimate(U280, Workload("llama-3.2-1b", 8, 8))
    parts = energy.estimate(U280, part.decode)
    assert sum(p.joules.likely for p in parts) == pytest.approx(energy.total(parts).likely)
    assert all(p.joules.low <= p.joules.likely <= p.joules.high for p in parts)
    bits = 8 * U280.beat_bytes * (part.decode["READ_BEATS"] + part.decode["WRITE_BEATS"])
    assert parts[0].joules.likely == pytest.approx(bits * 3.92e-12)
    doubled = energy.estimate(U280, {name: 2 * value for name, value in part.decode.items()})
    assert energy.total(doubled).high == pytest.approx(2 * energy.total(parts).high)


def test_what_cannot_be_estimated() -> None:
    with pytest.raises(CheckpointError, match="shape 'gpt' is not known"):
        estimate(U280, Workload("gpt", 8, 8))
    with pytest.raises(ProgramError, match="a decoding rate needs at least 2"):
        estimate(U280, Workload("llama-3.2-1b", 8, 1))
    with pytest.raises(ProgramError, match=r"trace has shape \(3, 2, 9\); llama-3.2-1b at 8\+8 needs \(16, 2, 15\)"):
        estimate(U280, Workload("llama-3.2-1b", 8, 8), routing=np.ones((3, 2, 9), bool))


def test_skip_ratios(tmp_path: Path) -> None:
    attention, ffn = ratios("attn=0.5,ffn=0", 4)
    assert (attention, ffn) == (0.5, 0)
    file = tmp_path / "ratios.yaml"
    file.write_text("attn: [0, 1, 0.5]\nffn: 1\n")
    trace = independent(3, 4000, *ratios(str(file), 3), 0)
    assert trace[0, 0].all()
    assert not trace[1, 0].any()
    assert not trace[:, 1].any()
    assert abs(trace[2, 0].mean() - 0.5) < 0.05
    for text in ("x", "attn=0.5", "1.5", "attn=0.1,ffn=-1"):
        with pytest.raises(ProgramError, match=r"accepted: a ratio in 0\.\.1"):
            ratios(text, 3)
    with pytest.raises(ProgramError, match="attn has shape \\(3,\\); accepted: one ratio, or 4 of them"):
        ratios(str(file), 4)
    np.save(tmp_path / "flat.npy", np.ones(5))
    with pytest.raises(ProgramError, match=r"a trace has shape \(layers, 2, tokens\); this array has \(5,\)"):
        load_trace(tmp_path / "flat.npy")


def cycle_by_cycle(machine: Machine, shape: Shape, due: int, begin: int) -> tuple[int, int]:
    """(last step, last drain) of a product's stream, every register of reader, memory, FIFO and sequencer stepped."""
    memory, fifo, burst = machine.memory, machine.weight_fifo, machine.burst
    most = (machine.weights_in_flight or fifo) - burst
    left, page, sizes = shape.beats, shape.page, []
    while left:
        sizes.append(min(left, burst, page))
        left, page = left - sizes[-1], page - sizes[-1] or 4096 // machine.beat_bytes
    address: int | None = None  # beats of the burst on the address channel
    queue: list[list[int]] = []  # bursts that memory accepted: when their beats may go, how many are left
    arriving, readable = [], []  # when beats are in the FIFO, when they can be taken
    asked = taken = pair = step = 0
    next_address, under_way, pair_full, second, scale, in_word = 0, 0, False, False, shape.scale, 0
    drains: list[int] = []
    last = cycle = 0
    while pair < shape.pairs:
        # What the cycle sees is what registers hold at its beginning.
        came = sum(at < cycle for at in arriving)
        accepts = address is not None and under_way < memory.outstanding and cycle >= next_address
        finished = 0
        if queue and cycle >= queue[0][0]:
            arriving.append(cycle + 1)
            readable.append(cycle + 3)
            queue[0][1] -= 1
            if not queue[0][1]:
                queue.pop(0)
                finished = 1
        fires = pair_full and (
            step > 0 or pair % shape.per_round > 0 or pair < 2 * shape.per_round or cycle > drains[pair // shape.per_round - 2]
        )
        pops = fires and step == shape.slots - 1
        ready = cycle >= begin and taken < shape.beats and taken < len(readable) and readable[taken] <= cycle
        takes = ready and (scale > 0 or not second or not pair_full or pops)
        ask = cycle >= due and sizes and (address is None or accepts)
        ask = ask and fifo - asked + taken >= sizes[0] and asked - came <= most
        if accepts:
            queue.append([cycle + memory.latency, address])
            address, next_address = None, cycle + memory.issue
        under_way += accepts - finished
        if ask:
            address = sizes.pop(0)
            asked += address
        if fires:
            step, last = (0, cycle) if pops else (step + 1, cycle)
        if pops:
            pair, pair_full = pair + 1, False
            if pair % shape.per_round == 0:
                drain = shape.last_drain if pair == shape.pairs else shape.drain
                drains.append(max([cycle + shape.flight, *drains[-1:]]) + drain)
        if takes:
            taken += 1
            if scale:
                scale -= 1
            elif not second:
                second = True
            else:
                second, pair_full, in_word = False, True, in_word + 1
                if in_word == shape.per_word:
                    in_word, scale = 0, shape.scale
        cycle += 1
    return last - begin, drains[-1] - begin


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_stream_is_counted_cycle_by_cycle(data: st.DataObject) -> None:
    draw = data.draw
    burst = draw(st.integers(1, 9), "burst")
    fifo = 2 * burst + draw(st.integers(0, 3 * burst), "fifo")
    machine = replace(
        Machine.load("mono"),
        burst=burst,
        weight_fifo=fifo,
        kv_fifo=64,
        weights_in_flight=draw(st.sampled_from([0, 2 * burst, fifo]), "in flight"),
        memory=MemoryTiming(
            latency=draw(st.integers(1, 60), "latency"),
            issue=draw(st.integers(1, 9), "issue"),
            outstanding=draw(st.integers(1, 16), "outstanding"),
        ),
    )
    slots, per_round, rounds = draw(st.integers(1, 5)), draw(st.integers(1, 12)), draw(st.integers(1, 4))
    drain = draw(st.integers(1, 30), "drain")
    shape = Shape(
        slots, per_round * rounds, 16, 8, per_round, draw(st.integers(1, 512), "page"), 20, drain, drain, machine.ports
    )
    due, begin = draw(st.integers(0, 50), "due"), draw(st.integers(0, 200), "begin")
    found = flow(machine, shape, [Reader(machine, 1.0, NOTHING)], NOTHING, due, begin)
    assert (found.end, found.drained) == cycle_by_cycle(machine, shape, due, begin)


@pytest.mark.parametrize(("target", "slots"), [("u280", 1), ("u280", 4), ("tiny", 1), ("trio", 2), ("mono", 3)])
def test_a_long_stream_is_its_beginning_and_repetition(target: str, slots: int) -> None:
    machine = Machine.load(target)
    shape = Shape(slots, 20_000, 16, 2, 100, 64, 20, 8, 8, machine.ports)
    ends = [
        flow(machine, shape, [Reader(machine, machine.memory.rate, NOTHING)], NOTHING, 0, 0, ((),), takes).end
        for takes in (None, [])  # every beat, when times of all of them are asked for
    ]
    assert abs(ends[0] / ends[1] - 1) < 0.002


def test_refreshes_of_ports_cost_where_fifos_are_short() -> None:
    """Spread over time, refreshes of lockstep ports add up unless the FIFOs hold as much as comes in one."""
    shape = Shape(1, 10_000, 16, 1, 100, 64, 20, 8, 8, 4)
    lost = {}
    for fifo in (64, 512):
        machine = replace(U280, ports=4, weight_fifo=fifo, weights_in_flight=fifo)
        apart = replace(machine, memory=replace(machine.memory, refresh_together=False))
        together, spread = (rate / slow for rate, slow in (Streams(m).rate(shape) for m in (machine, apart)))
        lost[fifo] = 1 - spread / together
    assert lost[64] > 0.05
    assert lost[512] < 0.01


def test_writes_that_come_faster_than_the_bus_pays_for_them_add_up() -> None:
    writes = Writes(replace(U280, memory=MemoryTiming(turnaround=9)))
    writes.add([(0, 100, 2), (0, 300, 1), (0, 106, 4), (1, 90, 1)])  # in whatever order they are known
    assert writes.windows() == {0: [(100, 120), (120, 142), (300, 319)], 1: [(90, 109)]}
    assert [writes.hold(at, 0) for at in (99, 101, 142, 310)] == [0, 41, 0, 9]
    assert writes.hold(108) == 34  # of the slowest port
    left = writes.left(120, 30)
    assert left == ((2, 0, 4), (2, 180, 1))  # the second keeps its start, which waited for the first
    writes.restore(left, 1120, 62)
    assert writes.windows() == {0: [(1120, 1142), (1300, 1319)]}
    writes.forget(1319)
    assert not writes.bursts


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


def test_outlines_are_timed_like_checkpoints() -> None:
    config = small_config()
    machine = Machine.load("tiny")
    routed = Routed(tokens=[0] * 4, routing=independent(config.num_layers, 8, 0.3, 0.3, 1))
    counts = [
        timing.run(compile_checkpoint(checkpoint, machine, context=8), Run((1, 2, 3), 4), timing.Options(routed)).counters
        for checkpoint in (outline("", config=config), random_checkpoint(config, 1))
    ]
    assert counts[0] == counts[1]
