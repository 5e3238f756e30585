"""Runs of weights are the tiles of the channel streams that the compiler lays out."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from amaranth.hdl import Array, Const, Elaboratable, Module
from amaranth.sim import SimulatorContext
from numpy.typing import NDArray

from hw.control.channels import ChannelFetch
from hw.memory.reader import RunQueue
from hw.pe.stationary.operands import word_lanes
from skipopu.channel_stream import ChannelStream
from skipopu.isa.spec import BLOCK_ROWS, matmul_shape
from skipopu.machine.config import Machine
from skipopu.masks import ThresholdTable
from skipopu.numerics.formats import BY_NAME
from tests.hw.bench import exercise
from tests.hw.control.test_active_tile import expected as active_runs

GROUP = 64


class Bench(Elaboratable):
    """The unit with the ports' queues, of which none may overflow, beside words of ``active`` channels, bool (words, lanes)."""

    def __init__(self, machine: Machine, active: NDArray[np.bool_] | None = None) -> None:
        self.fetch = ChannelFetch(machine)
        self.queues = [RunQueue(machine) for _ in range(machine.ports)]
        self.active = active

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fetch = self.fetch
        for p, (queue, runs) in enumerate(zip(self.queues, self.fetch.runs, strict=True)):
            m.submodules[f"queue_{p}"] = queue
            m.d.comb += [queue.push.eq(runs.valid), queue.run.eq(runs.payload), runs.ready.eq(queue.room)]
        if self.active is not None:
            words = [Const(sum(int(bit) << k for k, bit in enumerate(word)), len(word)) for word in self.active]
            m.d.comb += self.fetch.active.word.eq(Array(words)[self.fetch.active.address])
        return m


@pytest.mark.parametrize("ports", [1, 3])
def test_runs(ports: int) -> None:
    """Of all formats; the last round is of as many ports as have a block in it."""
    machine = dataclasses.replace(Machine.load("tiny"), stationary=True, ports=ports, formats=tuple(BY_NAME))
    dut, source = Bench(machine), random.Random(1)
    requests, expected = [], {queue.runs: [] for queue in dut.queues}
    for rows in [BLOCK_ROWS * ports, *(source.randrange(1, 12 * BLOCK_ROWS * ports) for _ in range(12))]:
        shape, address, groups = matmul_shape(rows, ports), source.getrandbits(30), source.randrange(1, 40)
        weights = source.choice(machine.weight_formats)
        laid = ChannelStream(rows, groups, GROUP, ports, machine.weight_lanes, weights)
        request = {"address": address, "groups": groups, "rounds": shape["rounds"], "ports": shape["ports"]}
        requests.append(request | {"two_digits": weights.two_digits, "zero_points": weights.zero_points})
        for port, queue in enumerate(dut.queues):
            beat = address * 64 // machine.beat_bytes
            for tile in laid.port_tiles(port):
                count = groups * laid.group_bytes(tile) // machine.beat_bytes
                expected[queue.runs].append({"beat": beat, "count": count})
                beat += count
    exercise(dut, {dut.fetch.issue: requests}, expected, constants=[(dut.fetch.group, GROUP)])


@pytest.mark.parametrize("ports", [1, 3])
@pytest.mark.parametrize(("groups", "leading"), [(5, 2), (3, 2), (2, 0)])
def test_masked(ports: int, groups: int, leading: int) -> None:
    """Thresholds come first, then the first tile's leading groups, both before the product begins, if there is time; then what is needed. The next
    product has the same mask, which is known, the one behind it has none."""
    machine = dataclasses.replace(Machine.load("tiny-masks"), ports=ports, weight_fifo=8 * GROUP, burst=8)
    rows, lanes, source = 12 * BLOCK_ROWS * ports + 9, word_lanes(machine), np.random.default_rng(groups)
    active, inner = source.random((groups, GROUP)) < 0.3, 2
    words = np.concatenate([np.zeros((inner, lanes), bool), active.reshape(-1, lanes)])
    dut, shape = Bench(machine, words), matmul_shape(rows, ports)
    table = ThresholdTable(groups, GROUP, machine.mask_ports, machine.beat_bytes)
    laid = ChannelStream(rows, groups, GROUP, ports, machine.weight_lanes)
    own = {"groups": groups, "rounds": shape["rounds"], "ports": shape["ports"], "source": 1}
    addresses, thresholds = [1000, 5000, 9000], 70
    requests = [
        own | {"address": addresses[0], "masked": 1, "thresholds": thresholds},
        own | {"address": addresses[1], "masked": 1, "again": 1},
        own | {"address": addresses[2]},
    ]
    expected = {queue.runs: list[dict[str, int]]() for queue in dut.queues}
    asked = 0  # runs of the first port in front of the product's beginning
    unit = 64 // machine.beat_bytes
    for port, queue in enumerate(dut.queues):
        runs, held = expected[queue.runs], len(range(port, groups, machine.mask_ports))
        if port < machine.mask_ports and held:
            runs.append({"beat": thresholds * unit, "count": held * table.group_bytes // machine.beat_bytes})
        for number, address in enumerate(addresses):
            beat = address * unit
            for tile, rounds in enumerate(laid.port_tiles(port)):
                per_group = laid.group_bytes(rounds) // machine.beat_bytes
                heads, channels = laid.scale_bytes(rounds) // machine.beat_bytes, laid.channels(rounds).bit_length() - 1
                first = leading if number == tile == 0 else 0
                if first:
                    runs.append({"beat": beat, "count": first * per_group})
                if number == tile == port == 0:
                    asked = len(runs)
                if number == 2:
                    runs.append({"beat": beat, "count": groups * per_group})
                else:
                    runs += active_runs(active, channels, beat, first, heads)
                beat += groups * per_group

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        fetch, first = dut.fetch, dut.queues[0].runs
        ctx.set(fetch.groups_done, groups)  # of a product before
        came = asked if stalls and stalls.random() < 0.5 else 0
        while came < asked:
            *_, run = await ctx.tick().sample(first.valid & first.ready)
            came += run
        await ctx.tick().repeat(stalls.randrange(1, 40) if stalls else 20)
        ctx.set(fetch.groups_done, 0)
        ctx.set(fetch.masked, 1)
        await ctx.tick()
        ctx.set(fetch.masked, 0)
        for known in range(1, groups + 1):
            await ctx.tick().repeat(stalls.randrange(1, 40) if stalls else 1)
            ctx.set(fetch.groups_done, known)

    constants = [(dut.fetch.group, GROUP), (dut.fetch.inner, inner * lanes)]
    exercise(dut, {dut.fetch.issue: requests}, expected, constants=constants, drive=drive)
