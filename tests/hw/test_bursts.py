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
