"""A port's bursts: how many weights are under way, who goes first, how long writes are."""

from __future__ import annotations

import dataclasses
from collections import deque

import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.memory.axi import ATTENTION, WEIGHTS
from hw.memory.reader import ReadPort
from hw.memory.writer import WritePort
from skipopu.errors import ConfigError
from skipopu.machine.config import Machine

MONO = Machine.load("mono")
LATENCY = 25


def simulate(dut: ReadPort | WritePort, bench: object) -> None:
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
        ctx.set(dut.arready, 1)
        runs = {client: getattr(dut, f"runs_{client}") for client in came}
        out = {client: getattr(dut, f"beats_{client}") for client in came}
        for client, stream in runs.items():
            ctx.set(stream.payload.beat, 1000 * client)
            ctx.set(stream.payload.count, beats)
            ctx.set(out[client].ready, 1)
        for cycle in range(900):
            for client, stream in runs.items():
                ctx.set(stream.valid, not asked[client] and (client == WEIGHTS or cycle > 40))
            ctx.set(dut.rvalid, bool(flight) and flight[0][0] <= cycle)
            if flight and flight[0][0] <= cycle:
                _, client, beat = flight.popleft()
                ctx.set(dut.rid, client)
                ctx.set(dut.rdata, beat)
            if ctx.get(dut.arvalid):
                client, first = ctx.get(dut.arid), ctx.get(dut.araddr) // machine.beat_bytes
                start = max(cycle + LATENCY, flight[-1][0] + 1 if flight else 0)
                flight.extend((start + k, client, first + k) for k in range(ctx.get(dut.arlen) + 1))
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


@pytest.mark.parametrize(("longest", "count", "first"), [(0, 11, 0), (16, 40, 0), (16, 40, 504), (64, 130, 500)])
def test_write_bursts(longest: int, count: int, first: int) -> None:
    """As long as the description says, inside 4096-byte pages, every beat once."""
    machine = dataclasses.replace(MONO, write_burst=longest)
    dut, page = WritePort(machine), 4096 // machine.beat_bytes
    bursts: list[tuple[int, int]] = []
    written: list[int] = []

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.awready, 1)
        ctx.set(dut.wready, 1)
        ctx.set(dut.runs_0.payload.beat, first)
        ctx.set(dut.runs_0.payload.count, count)
        ctx.set(dut.runs_0.valid, 1)
        ctx.set(dut.beats_0.valid, 1)
        while True:
            ctx.set(dut.beats_0.payload.data, len(written))
            ctx.set(dut.bvalid, ctx.get(dut.bready))
            if ctx.get(dut.awvalid):
                bursts.append((ctx.get(dut.awaddr) // machine.beat_bytes, ctx.get(dut.awlen) + 1))
            if ctx.get(dut.wvalid):
                written.append(ctx.get(dut.wdata))
                assert ctx.get(dut.wlast) == (len(written) == sum(length for _, length in bursts))
            taken, done = ctx.get(dut.runs_0.ready), ctx.get(dut.done_0)
            await ctx.tick()
            if taken:
                ctx.set(dut.runs_0.valid, 0)
            if done:
                return

    simulate(dut, bench)
    assert written == list(range(count))
    assert max(length for _, length in bursts) <= machine.longest_write
    place = first
    for start, length in bursts:
        assert start == place
        assert start // page == (start + length - 1) // page
        place += length
    assert place == first + count


def test_limits_of_both() -> None:
    with pytest.raises(ConfigError, match="weights_in_flight is 4; accepted: 0, or two bursts to weight_fifo, 8 to 8"):
        dataclasses.replace(MONO, weights_in_flight=4)
    with pytest.raises(ConfigError, match="write_burst is 600; accepted: 0, or up to 256 beats"):
        dataclasses.replace(MONO, write_burst=600)


def test_bursts_of_one_beat_come_without_gaps_in_the_fifo() -> None:
    """The shortest FIFO there is takes a beat in every cycle in which memory brings one."""
    machine = dataclasses.replace(MONO, burst=1, weight_fifo=2, kv_fifo=2)
    dut, beats = ReadPort(machine), 12
    came: list[int] = []

    async def bench(ctx: SimulatorContext) -> None:
        flight: list[tuple[int, int]] = []
        out, runs = getattr(dut, f"beats_{WEIGHTS}"), getattr(dut, f"runs_{WEIGHTS}")
        ctx.set(dut.arready, 1)
        ctx.set(runs.payload.count, beats)
        ctx.set(runs.valid, 1)
        for cycle in range(120):
            # Two answers at a time, back to back, while nobody takes them; then all are taken.
            ctx.set(out.ready, cycle % 12 > 8)
            due = bool(flight) and flight[0][0] <= cycle
            ctx.set(dut.rvalid, due)
            if due:
                ctx.set(dut.rdata, flight.pop(0)[1])
            if ctx.get(dut.arvalid):
                assert ctx.get(dut.arlen) == 0
                flight.append((cycle // 12 * 12 + 14, ctx.get(dut.araddr) // machine.beat_bytes))
            if ctx.get(out.valid) and ctx.get(out.ready):
                came.append(ctx.get(out.payload))
            ready = ctx.get(runs.ready)
            await ctx.tick()
            if ready:
                ctx.set(runs.valid, 0)

    simulate(dut, bench)
    assert came == list(range(beats))


@pytest.mark.parametrize("stray", [False, True])
def test_a_stopped_read_port_is_quiet_once_memory_has_answered(stray: bool) -> None:
    """No burst begins after the stop, the one on the bus is kept there, and a beat with nobody's ID is an error."""
    dut = ReadPort(MONO)
    asked, errors, quiet = 0, [], []

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal asked
        runs = getattr(dut, f"runs_{ATTENTION}")
        assert ctx.get(dut.quiet)
        ctx.set(runs.payload.count, 40)
        ctx.set(runs.valid, 1)
        await ctx.tick().repeat(3)
        ctx.set(dut.stop, 1)
        for cycle in range(60):
            ctx.set(dut.arready, cycle == 9)
            assert ctx.get(dut.arvalid) == (cycle <= 9)
            if ctx.get(dut.arvalid) and ctx.get(dut.arready):
                asked += ctx.get(dut.arlen) + 1
            came = 30 <= cycle < 30 + asked
            ctx.set(dut.rvalid, came)
            ctx.set(dut.rid, 3 if stray and cycle == 31 else ATTENTION)
            errors.append(ctx.get(dut.error))
            quiet.append(ctx.get(dut.quiet))
            await ctx.tick()

    simulate(dut, bench)
    assert asked == MONO.burst
    assert quiet == [cycle >= 30 + asked for cycle in range(60)]
    assert errors == [stray and cycle == 31 for cycle in range(60)]


@pytest.mark.parametrize("late", [0, 3, 100])
def test_a_stopped_write_port_ends_its_burst(late: int) -> None:
    """With data while it comes, without strobes where it does not; what is shown stands until it is taken."""
    dut, sent, shown = WritePort(MONO), [], None

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal shown
        ctx.set(dut.runs_0.payload.count, 11)
        ctx.set(dut.runs_0.valid, 1)
        ctx.set(dut.beats_0.payload.strobe, -1)
        ctx.set(dut.awready, 1)
        for cycle in range(80):
            ctx.set(dut.stop, cycle >= 4)
            ctx.set(dut.beats_0.valid, len(sent) < 2 or cycle >= late)
            ctx.set(dut.beats_0.payload.data, 100 + len(sent))
            ctx.set(dut.wready, cycle % 3 == 0)
            ctx.set(dut.bvalid, ctx.get(dut.bready))
            assert cycle < 4 or not ctx.get(dut.awvalid)
            now = (ctx.get(dut.wdata), ctx.get(dut.wstrb), ctx.get(dut.wlast)) if ctx.get(dut.wvalid) else None
            assert shown in (None, now)
            shown = now
            if now and ctx.get(dut.wready):
                sent.append(now)
                shown = None
            taken = ctx.get(dut.runs_0.ready)
            await ctx.tick()
            if taken:
                ctx.set(dut.runs_0.valid, 0)
        assert ctx.get(dut.quiet)

    simulate(dut, bench)
    assert [last for _, _, last in sent] == [k == MONO.longest_write - 1 for k in range(MONO.longest_write)]
    assert sent[0][:2] == (100, 255)
    assert all(strobe == 0 or data == 100 + k for k, (data, strobe, _) in enumerate(sent))
    assert (sent[-1][1] == 0) == (late == 100)
