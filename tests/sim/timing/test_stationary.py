"""A stationary array's product against every register on its way, stepped; its shape against the bytes that are packed; runs against the RTL."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.frontend.shapes import random_checkpoint
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.routing import independent
from sim.rtl import engine as rtl
from sim.timing import engine as timing
from sim.timing.costs import Costs
from sim.timing.product import product, weight_beats
from sim.timing.reader import NOTHING, Reader
from sim.timing.stationary import PUT_ASIDE, Group, Tile, Tiles, flow
from sim.timing.stream import Streams
from skipopu.channel_stream import ChannelStream
from skipopu.isa.spec import matmul_shape
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.machine.memory import MemoryTiming
from skipopu.numerics.formats import BY_NAME
from skipopu.program.run import Run
from tests.support import small_config


def stationary(target: str) -> Machine:
    return replace(Machine.load(target), name=f"s-{target}", stationary=True)


def cycle_by_cycle(machine: Machine, shape: Tiles, due: int, begin: int) -> tuple[int, int, int, int]:
    """(last step, last drain, waits for a bank, waits for sums) of a product, every register of fetch, reader, memory and array stepped."""
    memory, fifo, most = machine.memory, machine.weight_fifo, (machine.weights_in_flight or machine.weight_fifo) - machine.burst
    tiles = [tile for tile in shape.tiles for _ in range(tile.times)]
    # What filling does with each beat: -1 with scales, else a part's number and whether it is its first.
    beats: list[tuple[int, bool]] = []
    parts: list[tuple[int, int, bool, bool]] = []  # beats, tile, its first one, its last one
    for number, tile in enumerate(tiles):
        for group in range(tile.groups):
            beats += [(-1, False)] * tile.group.head
            for k, size in enumerate(tile.group.parts):
                beats += [(len(parts), beat == 0) for beat in range(size)]
                ends = group == tile.groups - 1 and k == len(tile.group.parts) - 1
                parts.append((size, number, group == k == 0, ends))
    runs = [tile.beats for tile in tiles]
    page, left, next_run = shape.page, 0, due - 1
    address: int | None = None  # beats of the burst on the address channel
    queue: list[list[int]] = []  # bursts that memory accepted: when their beats may go, how many are left
    arriving, readable = [], []  # when beats are in the FIFO, when they can be taken
    asked = taken = next_address = under_way = 0
    opened, filled = [False, False], [0, 0]
    part = beat = done = hold = 0  # of multiplying: the part, its beat, tokens done with
    claimed, freed = False, [-1, -1]  # cycles in which banks were drained
    drained = last = stalled = held = cycle = 0
    freeing: int | None = None  # a half that is freed in the cycle behind
    while part < len(parts):
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
        size = min(left, machine.burst, page)
        ask = left > 0 and (address is None or accepts) and fifo - asked + taken >= size and asked - came <= most
        starts = bool(runs) and left == 0 and cycle >= next_run
        of, first = beats[taken] if taken < len(beats) else (-1, False)
        ready = cycle >= begin and taken < len(readable) and readable[taken] <= cycle
        takes = ready and not (first and opened[of % 2])
        # Multiplying
        count, number, tile_begins, tile_ends = parts[part]
        tokens = min(2, shape.slots - done)
        present = opened[part % 2] and filled[part % 2] > beat
        bank_free = claimed or not tile_begins or cycle > freed[number % 2]
        last_beat = beat == count - 1
        fires = present and bank_free and not (last_beat and hold)
        stalled += present and not bank_free
        held += present and bank_free and not fires
        # The cycle's end
        if accepts:
            queue.append([cycle + memory.latency, address or 0])
            address, next_address = None, cycle + memory.issue
        under_way += accepts - finished
        if ask:
            address = size
            asked, left, page = asked + size, left - size, page - size or 4096 // machine.beat_bytes
        if starts:
            left, next_run = runs.pop(0), cycle + 3
        hold = max(0, hold - 1)
        if freeing is not None:
            opened[freeing], freeing = False, None
        if takes:
            if of >= 0:
                opened[of % 2], filled[of % 2] = True, 1 if first else filled[of % 2] + 1
            taken += 1
        if fires:
            last, beat, claimed = cycle, beat + 1, True
            if last_beat:
                sums = tokens * tiles[number].sums
                hold, beat, done = max(PUT_ASIDE, sums) - 1, 0, done + tokens
                if done == shape.slots:
                    freeing, part, done, claimed = part % 2, part + 1, 0, not tile_ends
                    if tile_ends:
                        taken_out = sums - tiles[number].sums + tiles[number].drained
                        complete = cycle + PUT_ASIDE + taken_out - 1 + pipeline.accumulated(machine)
                        drained = freed[number % 2] = max(complete, drained) + tiles[number].drain
        cycle += 1
    return last - begin, drained + 1 - begin, stalled, held


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_stream_is_counted_cycle_by_cycle(data: st.DataObject) -> None:
    draw = data.draw
    burst = draw(st.integers(1, 9), "burst")
    fifo = 2 * burst + draw(st.integers(0, 3 * burst), "fifo")
    machine = replace(
        stationary("mono"),
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
    parts = st.lists(st.integers(1, 24), min_size=1, max_size=3).map(tuple)
    tile = st.builds(
        Tile,
        times=st.integers(1, 3),
        groups=st.integers(1, 3),
        group=st.builds(Group, head=st.integers(1, 4), parts=parts),
        sums=st.integers(1, 24),
        drained=st.integers(1, 24),
        drain=st.integers(1, 90),
    )
    tiles = draw(st.lists(tile, min_size=1, max_size=3).map(tuple), "tiles")
    shape = Tiles(tiles, draw(st.integers(1, 5), "slots"), draw(st.integers(1, 512), "page"), machine.ports)
    due, begin = draw(st.integers(1, 50), "due"), draw(st.integers(0, 200), "begin")
    found = flow(machine, shape, [Reader(machine, 1.0, NOTHING)], NOTHING, due, begin, ((),), [])
    assert (found.end, found.drained, found.stalled, found.held) == cycle_by_cycle(machine, shape, due, begin)


@pytest.mark.parametrize(("times", "groups"), [(1, 900), (40, 32), (600, 2)])
@pytest.mark.parametrize(("target", "slots"), [("u280", 1), ("u280", 2), ("u280", 4), ("tiny", 1), ("trio", 5), ("mono", 3)])
def test_a_long_stream_is_its_beginning_and_repetition(target: str, slots: int, times: int, groups: int) -> None:
    machine = stationary(target)
    full = machine.channel_slots
    head, sums = max(1, 16 * full // machine.beat_bytes), machine.weight_lanes // 2
    shape = Tiles((Tile(times, groups, Group(head, (128,)), sums, sums, full * slots * 4),), slots, 64, machine.ports)
    found = [
        flow(machine, shape, [Reader(machine, machine.memory.rate, NOTHING)], NOTHING, 0, 0, ((),), takes)
        for takes in (None, [])  # every beat, when times of all of them are asked for
    ]
    assert abs(found[0].end / found[1].end - 1) < 0.002
    assert abs(found[0].stalled - found[1].stalled) + abs(found[0].held - found[1].held) < 0.004 * found[1].end


@pytest.mark.parametrize("target", ["tiny", "trio", "mono", "u280"])
@pytest.mark.parametrize(("name", "group"), [("int4", 32), ("int4", 256), ("int8", 128), ("int4z", 128), ("fp4", 192)])
@pytest.mark.parametrize("rows", [4, 40, 1000, 4096])
def test_beats_are_those_that_are_packed(target: str, name: str, group: int, rows: int) -> None:
    machine, form = stationary(target), BY_NAME[name]
    group, slots = max(group, machine.channel_slots), machine.tokens
    stream = ChannelStream(rows, 3, group, machine.ports, machine.weight_lanes, form)
    fields = {**matmul_shape(rows, machine.ports), "groups": 3, "format": form.code, "address": 1, "epilogue": 0}
    found = product(Costs(machine), fields, slots, group)
    sizes = [stream.port_bytes(port) // machine.beat_bytes for port in range(machine.ports)]
    assert weight_beats(Costs(machine), fields, group).tolist() == sizes
    assert found.beats == sum(sizes)
    assert found.shape.beats == sizes[0]
    shape = found.shape
    assert isinstance(shape, Tiles)
    assert sum(tile.times for tile in shape.tiles) == len(stream.tiles)
    assert sum(tile.times * tile.drain for tile in shape.tiles) == found.drains
    assert shape.ports == sum(size > 0 for size in sizes)
    codes = 3 * sum(group // stream.channels(rounds) for rounds in stream.tiles)
    assert found.steps == codes * -(-slots // 2)
    assert all(part * stream.channels(1) <= 128 * stream.full for tile in shape.tiles for part in tile.group.parts)


def test_memory_limits_one_token_and_multiplying_four() -> None:
    """Beats of scales are not multiplied; four tokens are two passes."""
    machine = stationary("u280")
    paces = {}
    for slots in (1, 4):
        shape = Tiles((Tile(50, 32, Group(4, (128,)), 64, 64, 64),), slots, 64, machine.ports)
        found = Streams(machine).flow(shape, NOTHING, 0, 0, (0, 0))
        paces[slots] = shape.beats / found.end
    assert paces[1] == pytest.approx(machine.memory.rate, rel=0.005)
    assert paces[4] == pytest.approx(132 / 256, rel=0.005)


def test_a_tile_is_drained_behind_the_next_ones() -> None:
    """Short tiles wait for banks, the last one's drain is what a product ends with."""
    machine = stationary("u280")
    ends = []
    for drain in (500, 1500):
        shape = Tiles((Tile(6, 8, Group(4, (128,)), 64, 64, drain),), 1, 64, machine.ports)
        found = Streams(machine).flow(shape, NOTHING, 0, 0, (0, 0))
        ends.append((found.stalled > 0, found.drained - found.end > drain))
    assert ends == [(False, True), (True, True)]


@pytest.mark.rtl
@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", ["tiny", "trio"])
@pytest.mark.parametrize(
    "memory", [MemoryTiming(latency=90, outstanding=4, refresh_interval=500, refresh=40), MemoryTiming(latency=1, issue=5)]
)
@pytest.mark.parametrize("skip", [0.0, 0.4])
def test_cycles_of_the_rtl(target: str, memory: MemoryTiming, skip: float) -> None:
    config = small_config(hidden_size=180, intermediate_size=220)
    machine = replace(stationary(target), memory=memory)
    program = compile_checkpoint(random_checkpoint(config, 3, routers=False), machine, context=16, group=64)
    run = Run((1, 2, 3, 4, 5, 6, 7), 4, routing=independent(config.num_layers, 16, skip, skip, 1))
    seen, expected = rtl.run(program, run), functional.run(program, run)
    assert seen.tokens == expected.tokens
    counted = timing.run(program, run, timing.Options(expected)).counters
    for name in ("READ_BEATS", "ARRAY_BUSY", "EPILOGUE_BUSY"):
        assert counted[name] == seen.counters[name]
    assert abs(counted["CYCLES"] / seen.counters["CYCLES"] - 1) < 0.03
    for name in ("ARRAY_WEIGHTS", "ARRAY_DRAIN", "ARRAY_EDGE"):
        assert abs(counted[name] - seen.counters[name]) < 0.03 * seen.counters["CYCLES"]
