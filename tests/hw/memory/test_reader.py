"""A port's reads: every beat once and in order, how many are under way, who goes first, what a stop leaves."""

from __future__ import annotations

import dataclasses
import random
from collections import deque

import pytest
from amaranth.hdl import Cat
from amaranth.sim import Simulator, SimulatorContext

from hw.memory.axi import ADDRESS_BITS, ATTENTION, READ_CLIENTS, WEIGHTS
from hw.memory.reader import BurstReader, ReadPort
from skipopu.errors import ConfigError
from skipopu.machine.accepted import LARGEST_MEMORY
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_RUN
from tests.hw.bench import exercise

MONO = Machine.load("mono")
PAGE = 4096 // MONO.beat_bytes
LATENCY = 25


def content(beat: int) -> int:
    return (beat * 0x9E3779B97F4A7C15 + 1) & (1 << MONO.port_bits) - 1


def random_runs(source: random.Random, count: int) -> list[dict[str, int]]:
    """Runs of 1 to 40 beats, many of them across the end of a page."""
    return [
        {"beat": PAGE * source.randrange(1, 50) - source.randrange(30), "count": source.randrange(1, 41)} for _ in range(count)
    ]


def beats_of(runs: list[dict[str, int]]) -> list[int]:
    return [content(run["beat"] + k) for run in runs for k in range(run["count"])]


def test_burst_reader() -> None:
    """Bursts stay in their pages and never ask for more than the FIFO has room for."""
    depth, delay = 32, 5
    dut, runs = BurstReader(MONO, depth, depth), random_runs(random.Random(1), 8)

    async def memory(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        flight: deque[tuple[int, int]] = deque()  # from when, which beat
        cycle = 0
        while True:
            due = bool(flight) and flight[0][0] <= cycle and not (stalls and stalls.random() < 0.3)
            ctx.set(dut.push, due)
            ctx.set(dut.push_data, content(flight.popleft()[1]) if due else 0)
            ctx.set(dut.burst_ready, not (stalls and stalls.random() < 0.3))
            _, _, valid, ready, first, length, level = await ctx.tick().sample(
                dut.burst_valid, dut.burst_ready, dut.burst_beat, dut.burst_length, dut.level
            )
            cycle += 1
            if valid and ready:
                assert first // PAGE == (first + length) // PAGE
                assert length < MONO.burst
                flight.extend((cycle + delay - 1, first + k) for k in range(length + 1))
            assert len(flight) + level <= depth

    beats = beats_of(runs)
    run = exercise(dut, {dut.runs: runs}, {dut.beats: beats}, beside=memory)
    # A burst a cycle after its run, its first beat ``delay`` cycles later, through the FIFO in two.
    assert run.given[dut.beats][0] - run.taken[dut.runs][0] == 1 + delay + 2
    assert run.cycles == 1 + delay + 2 + len(beats) - 1


def test_a_run_of_no_beats_asks_for_nothing() -> None:
    """Of a program that names none: the reader takes it, and waits for the next."""
    dut = BurstReader(MONO, 32, 32)

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.burst_ready, 1)
        ctx.set(dut.runs.payload, {"beat": 3, "count": 0})
        ctx.set(dut.runs.valid, 1)
        for _ in range(3):
            assert ctx.get(dut.runs.ready)
            await ctx.tick()
            assert not ctx.get(dut.burst_valid)
        assert not ctx.get(dut.misplaced)

    simulate(dut, bench)


def test_three_clients() -> None:
    """Each gets its own beats in order, and together they get one in every cycle."""
    dut, source = ReadPort(MONO), random.Random(1)
    runs = [random_runs(source, 4) for _ in range(READ_CLIENTS)]

    async def memory(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        axi, flight, cycle = dut.axi, deque[tuple[int, int, int]](), 0
        while True:
            due = bool(flight) and flight[0][0] <= cycle and not (stalls and stalls.random() < 0.3)
            ctx.set(axi.rvalid, due)
            if due:
                _, client, beat = flight.popleft()
                ctx.set(axi.rid, client)
                ctx.set(axi.rdata, content(beat))
            ctx.set(axi.arready, not (stalls and stalls.random() < 0.3))
            _, _, valid, ready, address, length, client = await ctx.tick().sample(
                axi.arvalid, axi.arready, axi.araddr, axi.arlen, axi.arid
            )
            cycle += 1
            if valid and ready:
                flight.extend((cycle + 3, client, address // MONO.beat_bytes + k) for k in range(length + 1))

    beats = [beats_of(wanted) for wanted in runs]
    run = exercise(
        dut, dict(zip(dut.runs, runs, strict=True)), dict(zip(dut.beats, beats, strict=True)), beside=memory, seeds=(1, 2)
    )
    count = sum(len(b) for b in beats)
    # Runs that end inside a burst's time leave a gap of a few cycles each.
    assert count <= run.cycles <= 1.15 * count
    first = min(times[0] for times in run.given.values())
    assert first == 2 + 4 + 2


def simulate(dut: BurstReader | ReadPort, bench: object) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("limit", [0, 8, 20])
def test_weights_under_way_and_attention_first(limit: int) -> None:
    """Both clients ask for long runs; every beat comes, in order, and no more weights than allowed are under way."""
    machine = dataclasses.replace(MONO, weight_fifo=64, kv_fifo=128, weights_in_flight=limit)
    dut, beats = ReadPort(machine), 90
    came: dict[int, list[int]] = {WEIGHTS: [], ATTENTION: []}
    most, before = 0, 0

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal most, before
        flight: deque[tuple[int, int, int]] = deque()  # when, client, beat
        asked = {WEIGHTS: False, ATTENTION: False}
        ctx.set(dut.axi.arready, 1)
        runs = {client: dut.runs[client] for client in came}
        out = {client: dut.beats[client] for client in came}
        for client, stream in runs.items():
            ctx.set(stream.payload.beat, 1000 * client)
            ctx.set(stream.payload.count, beats)
            ctx.set(out[client].ready, 1)
        for cycle in range(900):
            for client, stream in runs.items():
                ctx.set(stream.valid, not asked[client] and (client == WEIGHTS or cycle > 40))
            ctx.set(dut.axi.rvalid, bool(flight) and flight[0][0] <= cycle)
            if flight and flight[0][0] <= cycle:
                _, client, beat = flight.popleft()
                ctx.set(dut.axi.rid, client)
                ctx.set(dut.axi.rdata, beat)
            if ctx.get(dut.axi.arvalid):
                client, first = ctx.get(dut.axi.arid), ctx.get(dut.axi.araddr) // machine.beat_bytes
                start = max(cycle + LATENCY, flight[-1][0] + 1 if flight else 0)
                flight.extend((start + k, client, first + k) for k in range(ctx.get(dut.axi.arlen) + 1))
                # Once attention asks, weights wait until all of its run is asked for.
                before += client == WEIGHTS and asked[ATTENTION] and first < beats and not ctx.get(runs[ATTENTION].ready)
            most = max(most, sum(client == WEIGHTS for _, client, _ in flight))
            for client, stream in runs.items():
                asked[client] |= bool(ctx.get(stream.valid) and ctx.get(stream.ready))
                if ctx.get(out[client].valid):
                    came[client].append(ctx.get(out[client].payload))
            await ctx.tick()

    simulate(dut, bench)
    for client, seen in came.items():
        assert seen == [1000 * client + k for k in range(beats)]
    assert most <= (limit or machine.weight_fifo)
    assert limit != 8 or most > 4
    # One burst may be on its way to the bus when attention's first run comes.
    assert before <= 2


def test_bursts_of_one_beat_come_without_gaps_in_the_fifo() -> None:
    """The shortest FIFO there is takes a beat in every cycle in which memory brings one."""
    machine = dataclasses.replace(MONO, burst=1, weight_fifo=2, kv_fifo=2)
    dut, beats = ReadPort(machine), 12
    came: list[int] = []

    async def bench(ctx: SimulatorContext) -> None:
        flight: list[tuple[int, int]] = []
        out, runs = dut.beats[WEIGHTS], dut.runs[WEIGHTS]
        ctx.set(dut.axi.arready, 1)
        ctx.set(runs.payload.count, beats)
        ctx.set(runs.valid, 1)
        for cycle in range(120):
            # Two answers at a time, back to back, while nobody takes them; then all are taken.
            ctx.set(out.ready, cycle % 12 > 8)
            due = bool(flight) and flight[0][0] <= cycle
            ctx.set(dut.axi.rvalid, due)
            if due:
                ctx.set(dut.axi.rdata, flight.pop(0)[1])
            if ctx.get(dut.axi.arvalid):
                assert ctx.get(dut.axi.arlen) == 0
                flight.append((cycle // 12 * 12 + 14, ctx.get(dut.axi.araddr) // machine.beat_bytes))
            if ctx.get(out.valid) and ctx.get(out.ready):
                came.append(ctx.get(out.payload))
            ready = ctx.get(runs.ready)
            await ctx.tick()
            if ready:
                ctx.set(runs.valid, 0)

    simulate(dut, bench)
    assert came == list(range(beats))


LAST = MONO.burst - 1


@pytest.mark.parametrize(
    ("stray", "last", "wrong_from"),
    [
        (None, {LAST}, None),
        (1, {LAST}, LAST + 1),  # a beat is missed when its burst is over
        (None, {1}, 2),
        (None, {1, LAST}, 2),
        (None, set(), LAST + 1),
    ],
)
def test_a_stopped_read_port_is_quiet_once_memory_has_answered(
    stray: int | None, last: set[int], wrong_from: int | None
) -> None:
    """No burst begins after the stop, the one on the bus is kept there, and a beat of nobody's ID or a burst of another length is an error."""
    dut = ReadPort(MONO)
    asked, strays, errors, quiet = 0, [], [], []

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal asked
        runs = dut.runs[ATTENTION]
        assert ctx.get(dut.quiet)
        ctx.set(runs.payload.count, 40)
        ctx.set(runs.valid, 1)
        await ctx.tick().repeat(3)
        ctx.set(dut.stop, 1)
        for cycle in range(60):
            ctx.set(dut.axi.arready, cycle == 9)
            assert ctx.get(dut.axi.arvalid) == (cycle <= 9)
            if ctx.get(dut.axi.arvalid) and ctx.get(dut.axi.arready):
                asked += ctx.get(dut.axi.arlen) + 1
            came = 30 <= cycle < 30 + asked
            ctx.set(dut.axi.rvalid, came)
            ctx.set(dut.axi.rlast, came and cycle - 30 in last)
            ctx.set(dut.axi.rid, READ_CLIENTS if cycle - 30 == stray else ATTENTION)
            strays.append(ctx.get(dut.nobodys))
            errors.append(ctx.get(dut.error[ATTENTION]))
            quiet.append(ctx.get(dut.quiet))
            await ctx.tick()

    simulate(dut, bench)
    assert asked == MONO.burst
    assert quiet == [cycle >= 30 + asked for cycle in range(60)]
    assert strays == [cycle - 30 == stray for cycle in range(60)]
    first = errors.index(1) - 30 if any(errors) else None
    assert first == wrong_from


def test_limit_of_weights_under_way() -> None:
    with pytest.raises(ConfigError, match="weights_in_flight is 4; accepted: 0, or two bursts to weight_fifo, 8 to 8"):
        dataclasses.replace(MONO, weights_in_flight=4)


@pytest.mark.parametrize("client", range(READ_CLIENTS))
@pytest.mark.parametrize("address", [(1 << 32) - 4096, LARGEST_MEMORY - 8 * MONO.beat_bytes, (1 << ADDRESS_BITS) - 4096])
@pytest.mark.parametrize("count", [LARGEST_RUN // 2 + 4, LARGEST_RUN])
def test_the_longest_run_at_high_addresses(client: int, address: int, count: int) -> None:
    """Its first bursts follow one another, as long as can be, and it has not come to its end."""
    dut, bursts = ReadPort(MONO), list[tuple[int, int, int]]()

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.runs[client].payload, {"beat": address // MONO.beat_bytes, "count": count})
        ctx.set(dut.runs[client].valid, 1)
        await ctx.tick()
        ctx.set(dut.runs[client].valid, 0)
        ctx.set(dut.axi.arready, 1)
        for _ in range(20):
            if ctx.get(dut.axi.arvalid):
                bursts.append(tuple(ctx.get(port) for port in (dut.axi.araddr, dut.axi.arlen, dut.axi.arid)))
            await ctx.tick()
        assert not ctx.get(dut.runs[client].ready)

    simulate(dut, bench)
    assert len(bursts) == dut.depths[client] // MONO.burst
    size = MONO.burst * MONO.beat_bytes
    assert bursts == [((address + size * k) % (1 << ADDRESS_BITS), MONO.burst - 1, client) for k in range(len(bursts))]


@pytest.mark.parametrize("burst", [MONO.burst, 256])
def test_as_many_beats_as_can_be_owed(burst: int) -> None:
    """Every client asks for all that it has room for before a beat comes; the port is quiet with the last one."""
    machine = dataclasses.replace(MONO, burst=burst, weight_fifo=2 * burst, kv_fifo=4 * burst)
    dut = ReadPort(machine)
    flight: deque[tuple[int, bool]] = deque()  # client, the burst's last

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.axi.arready, 1)
        for runs, depth in zip(dut.runs, dut.depths, strict=True):
            ctx.set(runs.payload, {"beat": 0, "count": 2 * depth})
            ctx.set(runs.valid, 1)
        for cycle in range(40):
            if ctx.get(dut.axi.arvalid):
                beats = ctx.get(dut.axi.arlen) + 1
                flight.extend((ctx.get(dut.axi.arid), k == beats - 1) for k in range(beats))
            await ctx.tick()
            assert cycle < 2 or not ctx.get(dut.quiet)
            for runs in dut.runs:
                ctx.set(runs.valid, 0)
        assert len(flight) == sum(dut.depths)
        ctx.set(dut.axi.rvalid, 1)
        while flight:
            assert not ctx.get(dut.quiet)
            client, last = flight.popleft()
            ctx.set(dut.axi.rid, client)
            ctx.set(dut.axi.rlast, last)
            assert not ctx.get(Cat(dut.error))
            await ctx.tick()
        assert ctx.get(dut.quiet)
        assert ctx.get(dut.attention_level) == machine.kv_fifo

    simulate(dut, bench)


@pytest.mark.parametrize("before", [False, True])
def test_a_beat_that_nobody_asked_for_is_an_error_and_given_to_nobody(before: bool) -> None:
    """In front of a burst or behind it; what was asked for comes as ever, and the port is quiet."""
    dut, page = ReadPort(MONO), 4096 // MONO.beat_bytes
    got, errors = list[int](), list[int]()

    async def beat(ctx: SimulatorContext, value: int, last: bool) -> None:
        for port, now in ((dut.axi.rvalid, 1), (dut.axi.rid, ATTENTION), (dut.axi.rlast, last), (dut.axi.rdata, value)):
            ctx.set(port, now)
        errors.append(ctx.get(dut.error[ATTENTION]))
        await ctx.tick()
        ctx.set(dut.axi.rvalid, 0)

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.axi.arready, 1)
        for round_ in range(2):
            if before:
                await beat(ctx, 1000, True)
                assert ctx.get(dut.quiet)
            runs = dut.runs[ATTENTION]
            ctx.set(runs.payload.beat, page * round_)
            ctx.set(runs.payload.count, 3)
            ctx.set(runs.valid, 1)
            await ctx.tick()
            ctx.set(runs.valid, 0)
            await ctx.tick().until(dut.axi.arvalid)
            for value in range(3):
                await beat(ctx, 10 * round_ + value, value == 2)
            assert ctx.get(dut.quiet)
            if not before:
                await beat(ctx, 1000, True)
            assert ctx.get(dut.quiet)
            await ctx.tick().repeat(3)
            assert ctx.get(dut.attention_level) == 3
            beats = dut.beats[ATTENTION]
            ctx.set(beats.ready, 1)
            while ctx.get(beats.valid):
                got.append(ctx.get(beats.payload))
                await ctx.tick()
            ctx.set(beats.ready, 0)

    simulate(dut, bench)
    assert got == [0, 1, 2, 10, 11, 12]
    assert errors == 2 * ([1, 0, 0, 0] if before else [0, 0, 0, 1])
