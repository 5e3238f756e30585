"""A product's stream against every register on its way, stepped."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.timing.flow import Shape, flow
from sim.timing.reader import NOTHING, Reader
from skipopu.machine.config import Machine
from skipopu.machine.memory import MemoryTiming


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
        pops = fires and step == shape.steps - 1
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


@pytest.mark.parametrize("gap", [0, 40, 62, 90])
@pytest.mark.parametrize("rate", [0.714, 1.0])
def test_what_other_traffic_does_is_not_repeated(rate: float, gap: int) -> None:
    """Two equal stretches of written entries are no rhythm of the stream."""
    tiny = Machine.load("tiny")
    machine = replace(tiny, weight_fifo=29, weights_in_flight=21, burst=7, memory=MemoryTiming(latency=21, outstanding=4))
    shape = Shape(2, 432, 32, 8, 8, 472, 21, 8, 8, 1)
    first = [(256 + 8 * k, 264 + 8 * k) for k in range(37)]
    windows = (*first, *((start + 296 + gap, end + 296 + gap) for start, end in first))
    ends = [
        flow(machine, shape, [Reader(machine, rate, NOTHING)], NOTHING, 0, 85, (windows,), takes).end for takes in (None, [])
    ]
    assert abs(ends[0] / ends[1] - 1) < 0.01
